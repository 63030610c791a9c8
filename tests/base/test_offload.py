"""Offloaded layers compute the same, forward and backward; placement is what was asked for."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from lorakit.base.empty import empty_base
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.info import base_info
from lorakit.base.load import load_base
from lorakit.base.offload import DiskWeight, HostWeight
from lorakit.base.placement import layer_of, parse_bytes, place
from lorakit.base.storages import quantizations
from lorakit.errors import ModelError

FAMILIES = ["llama", "gpt2", "phi3", "qwen3_moe"]  # linear, Conv1D, fused projections, experts


@pytest.mark.parametrize("quantization", sorted(quantizations()))
@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_offloaded_computes_the_same(
    model_type: str, where: str, quantization: str, family_folder
) -> None:
    folder = family_folder(model_type)
    options = {"quantization": quantization, "dtype": torch.float32, "device": "cpu"}
    whole, _ = load_base(folder, **options)
    rows = base_info(whole).placement
    limit = rows[0].num_bytes + rows[1].num_bytes  # room for one of the two layers
    part, _ = load_base(folder, **options, offload=where, max_device_memory=limit)
    assert [row.where for row in base_info(part).placement] == ["device", "device", where]
    kinds = {
        type(module.stored)
        for name, module in part.named_modules()
        if isinstance(module, FrozenLinear) and layer_of(name) == rows[2].layer
    }
    assert kinds == {{"cpu": HostWeight, "disk": DiskWeight}[where]}
    ids = torch.randint(5, 390, (2, 11))
    logits, grads = [], []
    for model in (whole, part):
        embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
        out = model(inputs_embeds=embeds).logits
        out.square().sum().backward()
        logits.append(out)
        grads.append(embeds.grad)
    assert torch.allclose(logits[0], logits[1], rtol=1e-5, atol=1e-6)
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-5)


def one_layer(folder: Path, **options: object) -> int:
    """Bytes with room for one of the two layers."""
    rows = place(empty_base(folder, **options), torch.device("cpu"), offload="none")
    return rows[0].num_bytes + rows[1].num_bytes


def test_dense_layers_stay_in_their_checkpoint_file(tiny_folder: Path) -> None:
    options = {"dtype": torch.float32}
    limit = one_layer(tiny_folder, **options)
    model, _ = load_base(
        tiny_folder, **options, device="cpu", offload="disk", max_device_memory=limit
    )
    files = {
        place.file
        for module in model.modules()
        if isinstance(module, DiskWeight)
        for place in module.places.values()
    }
    assert files == {tiny_folder / "model.safetensors"}


def test_other_dtypes_and_packed_layers_are_spilled_and_removed_with_the_model(
    tiny_folder: Path,
) -> None:
    for options in ({"dtype": torch.bfloat16}, {"dtype": torch.float32, "quantization": "nf4"}):
        model, _ = load_base(
            tiny_folder,
            device="cpu",
            offload="disk",
            max_device_memory=one_layer(tiny_folder, **options),
            **options,
        )
        weights = [module for module in model.modules() if isinstance(module, DiskWeight)]
        files = {place.file for weight in weights for place in weight.places.values()}
        assert files and all(file.is_file() for file in files)
        assert tiny_folder / "model.safetensors" not in files
        del model, weights
        gc.collect()
        assert not any(file.exists() for file in files)


def test_moving_and_casting_the_model_leaves_offloaded_weights(tiny_folder: Path) -> None:
    options = {"quantization": "nf4", "dtype": torch.float32}
    limit = one_layer(tiny_folder, **options)
    model, _ = load_base(
        tiny_folder, **options, device="cpu", offload="cpu", max_device_memory=limit
    )
    weight = next(module for module in model.modules() if isinstance(module, HostWeight))
    before = {name: (tensor.dtype, tensor.device) for name, tensor in weight.tensors().items()}
    model.bfloat16()
    after = {name: (tensor.dtype, tensor.device) for name, tensor in weight.tensors().items()}
    assert after == before


def test_placement_fills_the_device_first(tiny_folder: Path) -> None:
    empty = empty_base(tiny_folder, quantization="nf4", dtype=torch.float32)
    cpu = torch.device("cpu")
    everything = place(empty, cpu)
    assert {row.where for row in everything} == {"device"}
    total = sum(row.num_bytes for row in everything)
    stored = {id(t): t for t in (*empty.parameters(), *empty.buffers())}
    assert total == sum(t.numel() * t.element_size() for t in stored.values())
    assert [row.layer for row in everything] == ["", "model.layers.0", "model.layers.1"]
    one_short = place(empty, cpu, max_device_memory=total - 1)
    assert [row.where for row in one_short] == ["device", "device", "disk"]
    assert {row.where for row in place(empty, cpu, max_device_memory=total)} == {"device"}
    nothing = place(empty, cpu, offload="cpu", max_device_memory=everything[0].num_bytes)
    assert [row.where for row in nothing] == ["device", "cpu", "cpu"]
    assert {r.where for r in place(empty, cpu, offload="none", max_device_memory=1)} == {"device"}
    with pytest.raises(ModelError, match="max_device_memory"):
        place(empty, cpu, max_device_memory=everything[0].num_bytes - 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * 10**9), ("6 GiB", 6 << 30), ("1.5kb", 1500), ("12", 12), (7, 7), (None, None)],
)
def test_sizes(text: str | int | None, size: int | None) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "6 XB", "6GB6"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ModelError, match="size"):
        parse_bytes(text)


def test_layer_names() -> None:
    assert layer_of("model.layers.11.mlp.up_proj") == "model.layers.11"
    assert layer_of("transformer.h.0.attn.c_attn") == "transformer.h.0"
    assert layer_of("model.layers.2.experts.7.w1") == "model.layers.2"
    assert layer_of("lm_head") == layer_of("model.norm") == ""
