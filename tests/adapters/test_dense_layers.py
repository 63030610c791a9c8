"""Dense stand-ins compute the same, and everything is as before afterwards."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import adapter_disabled
from lorakit.adapters.dense_layers import dense_layers
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.load import load_base
from lorakit.base.offload import HostWeight
from lorakit.base.storages.dense import DenseWeight
from lorakit.recipe import LoraConfig
from tests.adapters.bases import FAMILIES, KINDS, STORAGES, Load, logits, perturb
from tests.tolerances import LOGITS_FLOAT32, relative_error

PLENTY = 1 << 40


def adapted(load: Load, family: str, storage: str, kind: str, dtype=torch.float32):
    model = load(family, storage, dtype)
    attach_adapter(model, LoraConfig(r=4, kind=kind))
    perturb(model)
    return model.eval()


def described(model: PreTrainedModel) -> dict[str, object]:
    return {name: id(module) for name, module in model.named_modules()} | {
        name: (id(tensor), tensor.requires_grad) for name, tensor in model.named_parameters()
    }


def packed_layers(model: PreTrainedModel) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLinear)
        or (isinstance(module, FrozenLinear) and not isinstance(module.stored, DenseWeight))
    ]


@pytest.mark.parametrize(
    ("family", "storage", "kind"), list(itertools.product(FAMILIES, STORAGES, KINDS))
)
def test_dense_stand_ins_compute_the_same(load: Load, family: str, storage: str, kind: str) -> None:
    model = adapted(load, family, storage, kind)
    before, expected = described(model), logits(model)
    with dense_layers(model, PLENTY):
        assert packed_layers(model) == []
        assert relative_error(logits(model), expected) < LOGITS_FLOAT32
    assert described(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_disabled_adapter_stays_disabled(load: Load, storage: str) -> None:
    model = adapted(load, "llama", storage, "dora")
    with adapter_disabled(model):
        expected = logits(model)
        with dense_layers(model, PLENTY):
            assert torch.equal(logits(model), expected)


def test_half_precision_is_dequantized_but_not_merged(load: Load) -> None:
    model = adapted(load, "llama", "nf4", "lora", torch.bfloat16)
    expected = logits(model)
    with dense_layers(model, PLENTY):
        kept = [m for m in model.modules() if isinstance(m, AdaptedLinear)]
        assert kept and all(isinstance(m.base_layer.stored, DenseWeight) for m in kept)
        assert torch.equal(logits(model), expected)


def test_no_more_memory_than_allowed(load: Load) -> None:
    model = adapted(load, "llama", "nf4", "lora")
    expected, all_packed = logits(model), set(packed_layers(model))
    with dense_layers(model, 0):
        assert set(packed_layers(model)) == all_packed
    first = next(m for m in model.modules() if isinstance(m, AdaptedLinear))
    one = first.in_features * first.out_features * 4
    with dense_layers(model, one):
        replaced = all_packed - set(packed_layers(model))
        assert replaced == {first.name, f"{first.name}.base_layer"}
        assert relative_error(logits(model), expected) < LOGITS_FLOAT32


def test_an_exception_inside_restores_the_layers(load: Load) -> None:
    model = adapted(load, "llama", "nf4", "dora")
    before = described(model)
    with pytest.raises(KeyboardInterrupt), dense_layers(model, PLENTY):
        raise KeyboardInterrupt
    assert described(model) == before


def test_offloaded_layers_stay_where_they_are(folders: dict[str, Path]) -> None:
    model, _ = load_base(
        folders["llama"],
        quantization="nf4",
        dtype=torch.float32,
        device="cpu",
        offload="cpu",
        max_device_memory=150_000,
    )
    attach_adapter(model, LoraConfig(r=4))
    perturb(model)
    model.eval()

    def hosted() -> list[str]:
        return [
            name
            for name, module in model.named_modules()
            if isinstance(module, FrozenLinear) and isinstance(module.stored, HostWeight)
        ]

    before, expected = hosted(), logits(model)
    with dense_layers(model, PLENTY):
        assert hosted() == before
        assert relative_error(logits(model), expected) < LOGITS_FLOAT32


@pytest.mark.parametrize("path", ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"])
@pytest.mark.parametrize("is_adapted", [True, False])
def test_a_hook_is_called_and_what_it_gives_counts(load: Load, path: str, is_adapted: bool) -> None:
    model = load("llama", "nf4", torch.float32).eval()
    if is_adapted:
        attach_adapter(model, LoraConfig(r=4))
        perturb(model)
    plain = logits(model)
    layer = model.get_submodule(f"model.layers.0.{path}")
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    expected = logits(model)
    assert relative_error(expected, plain) > LOGITS_FLOAT32
    with dense_layers(model, PLENTY):
        assert relative_error(logits(model), expected) < LOGITS_FLOAT32
