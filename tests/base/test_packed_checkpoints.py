"""Checkpoints that transformers saved with bitsandbytes, read as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import adapter_disabled
from lorakit.base.empty import empty_base
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.info import base_info
from lorakit.base.load import load_base
from lorakit.base.offload import DiskWeight, HostWeight
from lorakit.base.origin import origins
from lorakit.base.storages.int8 import Int8Weight
from lorakit.errors import ModelError
from lorakit.recipe import LoraConfig, SFTConfig, parse_recipe
from lorakit.train.sft import train_sft
from tests.base import bitsandbytes_peer as peer
from tests.tolerances import LOGITS_FLOAT32, relative_error

IDS = torch.arange(5, 27)[None]
AS_STORED: dict[str, Any] = {"quantization": "checkpoint", "dtype": torch.float32}
VARIANTS = [("llama", name) for name in peer.CONFIGS]
VARIANTS += [(f, n) for f in peer.FAMILIES[1:] for n in ("nf4 double in uint8", "int8")]


@pytest.fixture(scope="session")
def packed_folder(tmp_path_factory: pytest.TempPathFactory, family_folder):
    """`packed_folder(family, name of a config)`: saved by bitsandbytes; do not change it."""
    made: dict[tuple[str, str], Path] = {}

    def saved(family: str, name: str) -> Path:
        if (family, name) not in made:
            output = tmp_path_factory.mktemp(f"{family}-packed")
            peer.save(family_folder(family), output, **peer.CONFIGS[name])
            made[family, name] = output
        return made[family, name]

    return saved


def dense_model(folder: Path, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The plain model with these weights (O, I) in its linear layers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, weight in weights.items():
        layer = model.get_submodule(name)
        layer.weight.data = weight.t().clone() if isinstance(layer, Conv1D) else weight.clone()
    return model


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: packed codes seen as floats may be NaN, which equals nothing."""
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize(("family", "name"), VARIANTS)
def test_weights_bytes_and_logits(family: str, name: str, packed_folder, family_folder) -> None:
    folder = packed_folder(family, name)
    model, _ = load_base(folder, **AS_STORED, device="cpu")
    expected = peer.dense_weights(peer.load(folder))
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FrozenLinear)}
    assert layers.keys() == expected.keys() and len(layers) >= 8
    with safe_open(folder / "model.safetensors", "pt") as file:
        for path, layer in layers.items():
            assert torch.equal(layer.weight, expected[path])
            (origin,) = origins(folder)[f"{path}.weight"]
            stored = file.get_tensor(origin.tensor)
            codes = layer.stored.tensors()["codes"]
            assert torch.equal(raw(codes), raw(stored))
            assert torch.equal(raw(origin.read()), raw(stored))
            assert torch.equal(origin.dense(), expected[path])
    square = dense_model(family_folder(family), {n: layer.weight for n, layer in layers.items()})
    assert relative_error(model(IDS).logits, square(IDS).logits) <= LOGITS_FLOAT32
    assert base_info(model).quantization == "checkpoint"
    assert not model.is_quantized and "quantization_config" not in model.config.to_dict()


@pytest.mark.parametrize(("family", "name"), VARIANTS)
def test_empty_equals_loaded_and_the_config_alone_says_the_same(
    family: str, name: str, packed_folder, tmp_path: Path
) -> None:
    folder = packed_folder(family, name)
    loaded, _ = load_base(folder, **AS_STORED, device="cpu")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for source in (folder, tmp_path):
        empty = empty_base(source, **AS_STORED)
        assert described(empty) == described(loaded)
        assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))


def described(model: nn.Module) -> dict[str, tuple]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: (tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors}


def test_logits_are_those_of_bitsandbytes(packed_folder) -> None:
    for name in peer.FOUR_BIT:
        folder = packed_folder("llama", name)
        model, _ = load_base(folder, **AS_STORED, device="cpu")
        assert relative_error(model(IDS).logits, peer.load(folder)(IDS).logits) <= LOGITS_FLOAT32


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_int8_differs_from_bitsandbytes_by_its_rounded_activations(packed_folder) -> None:
    """LLM.int8 rounds the inputs to 8 bits as well: about half a percent of each product."""
    folder = packed_folder("llama", "int8")
    model, _ = load_base(folder, **AS_STORED, device="cpu")
    assert 1e-4 < relative_error(model(IDS).logits, peer.load(folder)(IDS).logits) < 2e-2


def test_a_packed_head_is_read_too(family_folder, tmp_path: Path) -> None:
    peer.save(
        family_folder("llama"),
        tmp_path,
        **peer.CONFIGS["nf4 double in uint8"],
        llm_int8_skip_modules=["model.layers.0.mlp.up_proj"],
    )
    model, _ = load_base(tmp_path, **AS_STORED, device="cpu")
    assert isinstance(model.lm_head, FrozenLinear)
    assert isinstance(model.get_submodule("model.layers.0.mlp.up_proj"), nn.Linear)
    assert described(empty_base(tmp_path, **AS_STORED)) == described(model)
    assert relative_error(model(IDS).logits, peer.load(tmp_path)(IDS).logits) <= LOGITS_FLOAT32
    out = model.generate(input_ids=IDS, max_new_tokens=2, do_sample=False)
    assert out.shape == (1, IDS.shape[1] + 2)


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize(("family", "name"), [("gpt2", "int8"), ("llama", "fp4 double in float16")])
def test_offloaded_computes_the_same(family: str, name: str, where: str, packed_folder) -> None:
    folder = packed_folder(family, name)
    whole, _ = load_base(folder, **AS_STORED, device="cpu")
    rows = base_info(whole).placement
    limit = rows[0].num_bytes + rows[1].num_bytes
    part, _ = load_base(folder, **AS_STORED, device="cpu", offload=where, max_device_memory=limit)
    assert [row.where for row in base_info(part).placement] == ["device", "device", where]
    kinds = {type(m.stored) for m in part.modules() if isinstance(m, FrozenLinear)}
    assert {"cpu": HostWeight, "disk": DiskWeight}[where] in kinds
    assert torch.equal(part(IDS).logits, whole(IDS).logits)


def test_shards_and_bfloat16(packed_folder, family_folder, tmp_path: Path) -> None:
    config = peer.CONFIGS["nf4 double in uint8"]
    peer.save(family_folder("llama"), tmp_path, max_shard_size="20KB", **config)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    options = {**AS_STORED, "dtype": torch.bfloat16}
    sharded, _ = load_base(tmp_path, **options, device="cpu")
    whole, _ = load_base(packed_folder("llama", "nf4 double in uint8"), **options, device="cpu")
    assert described(sharded) == described(whole)
    assert torch.equal(sharded(IDS).logits, whole(IDS).logits)
    weight = sharded.get_submodule("model.layers.0.mlp.up_proj").weight
    assert weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["nf4 double in uint8", "int8"])
def test_it_trains(name: str, packed_folder, tmp_path: Path) -> None:
    model, tokenizer = load_base(packed_folder("llama", name), **AS_STORED, device="cpu")
    before = model(IDS).logits.detach()
    adapter = attach_adapter(model, LoraConfig(r=4))
    start = {n: p.detach().clone() for n, p in adapter.parameters().items()}
    rows = [{"prompt": "What is asthma?", "completion": " A chronic disease."}] * 4
    train_sft(model, tokenizer, rows, SFTConfig(max_steps=2, batch_size=2, learning_rate=1e-2))
    assert any(not torch.equal(p, start[n]) for n, p in adapter.parameters().items())
    model.eval()
    assert not torch.equal(model(IDS).logits, before)
    with adapter_disabled(model):
        assert torch.equal(model(IDS).logits, before)


def test_the_plan_counts_the_bytes_of_the_files(packed_folder, tmp_path: Path) -> None:
    from lorakit.plan.plan import plan

    folder = packed_folder("llama", "nf4 double in uint8")
    recipe = {
        "base": {"model": str(folder), "quantization": "checkpoint", "dtype": "float32"},
        "data": {"train": str(tmp_path / "absent.jsonl")},
    }
    planned = plan(parse_recipe(recipe))
    loaded, _ = load_base(folder, **AS_STORED, device="cpu")
    tensors = {id(t): t for t in (*loaded.parameters(), *loaded.buffers())}.values()
    assert planned.memory.weights == sum(t.numel() * t.element_size() for t in tensors)


def test_a_family_whose_experts_were_packed_one_by_one(
    family_folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As older releases of transformers saved them; now they are fused, and dense."""
    from safetensors.torch import load_file, save_file

    from lorakit.base.bitsandbytes_format import stored_tensors
    from lorakit.base.storages import nf4

    peer.save(family_folder("mixtral"), tmp_path, **peer.CONFIGS["nf4 double in uint8"])
    tensors = load_file(tmp_path / "model.safetensors")
    experts = [name for name in tensors if ".experts." in name]
    rounded = {}
    for name in experts:
        packed = nf4.quantize(tensors.pop(name))
        tensors |= stored_tensors(name, packed)
        rounded[name] = packed.dequantize()
    plain = load_base(tmp_path, **AS_STORED, device="cpu")[0]
    assert "dense in memory" not in caplog.text
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model, _ = load_base(tmp_path, **AS_STORED, device="cpu")
    dense = sum(tensor.numel() * 4 for tensor in rounded.values())
    assert f"{len(experts)} packed weights become" in caplog.text
    assert f"{dense} in torch.float32" in caplog.text
    save_file(
        {n: t for n, t in tensors.items() if ".experts." not in n} | rounded,
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    expected, _ = load_base(tmp_path, **AS_STORED, device="cpu")
    assert described(model) == described(expected) == described(plain)
    assert torch.equal(model(IDS).logits, expected(IDS).logits)
    assert not torch.equal(model(IDS).logits, plain(IDS).logits)


def test_int8_rows_are_what_is_scaled(packed_folder) -> None:
    model, _ = load_base(packed_folder("gpt2", "int8"), **AS_STORED, device="cpu")
    stored = model.get_submodule("transformer.h.0.mlp.c_fc").stored
    assert isinstance(stored, Int8Weight)
    assert stored.absmax.shape == (stored.shape[0],) and stored.shape[0] > stored.shape[1]


def test_another_quantization_than_that_of_the_folder(packed_folder, tiny_folder: Path) -> None:
    folder = packed_folder("llama", "nf4 double in uint8")
    for quantization in ("none", "nf4", "int8"):
        for load in (load_base, empty_base):
            with pytest.raises(ModelError, match=r"stored in nf4 .*base\.quantization: checkpoint"):
                load(folder, quantization=quantization)
    for load in (load_base, empty_base):
        with pytest.raises(ModelError, match="unquantized; possible: none, nf4, fp4, int8"):
            load(tiny_folder, quantization="checkpoint")
