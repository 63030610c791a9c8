"""The modules of decoding: that they stand, and how few ops they take.

That they compute what transformers' do is a law of the sampler, over every family
(`tests/generate/test_families.py`).
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.dense_layers import dense_layers
from lorakit.engine.decoding import DecodingAttention, DecodingGatedMLP, DecodingRMSNorm
from lorakit.engine.fuse import decoding_modules
from lorakit.engine.modules import Stand
from lorakit.generate.decoders import Prompt, SlotDecoder
from lorakit.recipe import LoraConfig
from tests import families
from tests.adapters.bases import perturb

PLENTY = 1 << 30
KINDS = {DecodingRMSNorm, DecodingGatedMLP, DecodingAttention}
PRODUCTS = {"mm", "addmm", "bmm", "linear"}
# {family: ops of a layer's pass over tokens that continue a group of slots, views left out: with an
# adapter, and of a plain base}. Of transformers' own modules they are 43, of Qwen3's 55.
MOST_OPS = {"llama": (28, 33), "mistral": (28, 33), "qwen2": (28, 34), "qwen3": (42, 47)}


class Ops(TorchDispatchMode):
    """Counts ops that compute or copy something."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def stands(model: PreTrainedModel) -> list[Stand]:
    return [module for module in model.modules() if isinstance(module, Stand)]


@torch.no_grad()
def ops_of_a_pass(model: PreTrainedModel) -> Counter[str]:
    """Of one that reads the newest token of three sequences."""
    decoder = SlotDecoder(model, 4)
    decoder.step([], [Prompt([5, 6, 7], 2), Prompt([8, 9])])
    decoder.step([3, 4, 5], [])
    with Ops() as ops:
        decoder.step([5, 4, 3], [])
    return ops.counts


@pytest.mark.parametrize("model_type", MOST_OPS)
@pytest.mark.parametrize("is_adapted", [True, False])
def test_few_ops_for_a_token(model_type: str, is_adapted: bool) -> None:
    """With an adapter four products in a layer; a plain base, of which nothing is copied, has its
    seven."""
    counts = []
    for num_layers in (2, 4):
        model = families.build(model_type, num_hidden_layers=num_layers, layer_types=None).eval()
        if is_adapted:
            attach_adapter(model, LoraConfig(r=4))
            perturb(model)
        with dense_layers(model, PLENTY), decoding_modules(model) as count:
            assert {type(stand) for stand in stands(model)} == KINDS
            assert len(stands(model)) == count
            counts.append(ops_of_a_pass(model))
        assert not stands(model)
    fewer, more = counts

    def of_a_layer(names: Any) -> float:
        return sum(more[name] - fewer[name] for name in names) / 2

    assert of_a_layer(PRODUCTS) == (4 if is_adapted else 7)
    assert of_a_layer(more) <= MOST_OPS[model_type][not is_adapted]
    assert of_a_layer(["index_put_"]) == 1


def test_what_is_not_dense_stays() -> None:
    model = families.build("llama")
    attach_adapter(model, LoraConfig(r=4))
    with decoding_modules(model):
        assert {type(stand) for stand in stands(model)} == {DecodingRMSNorm}
    with kernels.reference_only(), dense_layers(model, PLENTY), decoding_modules(model):
        assert not stands(model)


@pytest.mark.parametrize("path", ["mlp", "mlp.up_proj", "self_attn", "self_attn.k_proj"])
def test_a_hook_is_called(path: str) -> None:
    model, seen = families.build("llama"), []
    model.get_submodule(f"model.layers.0.{path}").register_forward_hook(
        lambda *_: seen.append(path)
    )
    with decoding_modules(model):
        ops_of_a_pass(model)
    assert seen == [path] * 3


def test_other_dtypes_are_transformers_own() -> None:
    """Norms of half precision are; a module that is given another dtype than its weights'."""
    model = families.build("llama").to(torch.bfloat16)
    with decoding_modules(model), torch.no_grad():
        assert {type(stand) for stand in stands(model)} == KINDS - {DecodingRMSNorm}
        x = torch.randn(1, 3, 32, dtype=torch.bfloat16)
        mlp = model.model.layers[0].mlp
        assert torch.equal(mlp(x), mlp.original[0](x))


@pytest.mark.parametrize("switched", [True, False])
def test_a_norm_that_trains_on_half_precision_is_transformers_own(switched: bool) -> None:
    """Its weight is float32 at rest, and cast to the base's dtype in the call."""
    model = families.build("llama").to(torch.bfloat16).eval()
    attach_adapter(model, LoraConfig(r=4, modules_to_save=["model.norm"]))
    perturb(model, size=0.5)
    x = 3 * torch.randn(1, 7, 32, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    with nullcontext() if switched else adapter_disabled(model), torch.no_grad():
        expected = model.model.norm(x)
        with decoding_modules(model):
            assert torch.equal(model.model.norm(x), expected)
