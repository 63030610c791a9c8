"""Quantized folders: here -> transformers + bitsandbytes -> here, with equal tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.base import model_folder, packer
from lorakit.base import write_quantized as writing
from lorakit.base.four_bit import BLOCK_SIZES
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.load import load_base
from lorakit.base.storages import storage
from lorakit.base.write_quantized import (
    QUANTIZATIONS,
    PackSettings,
    Replacement,
    quantize_folder,
    write_quantized,
)
from lorakit.errors import InputError, ModelError, VerificationError
from tests import families, tiny
from tests.base import bitsandbytes_peer as peer
from tests.tolerances import LOGITS_FLOAT32, relative_error

IDS = torch.arange(5, 27)[None]


def packed_layers(folder: Path) -> dict[str, FrozenLinear]:
    model, _ = load_base(folder, quantization="checkpoint", dtype=torch.float32, device="cpu")
    return {name: m for name, m in model.named_modules() if isinstance(m, FrozenLinear)}


def assert_equal_tensors(one: Path, other: Path) -> None:
    layers, others = packed_layers(one), packed_layers(other)
    assert layers.keys() == others.keys()
    for path, layer in layers.items():
        theirs = others[path].stored.tensors()
        assert all(torch.equal(t, theirs[name]) for name, t in layer.stored.tensors().items())
        assert repr(layer.stored) == repr(others[path].stored)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("family", peer.FAMILIES)
def test_there_and_back_with_equal_tensors(
    family: str, quantization: str, family_folder, tmp_path: Path
) -> None:
    folder, ours, back = family_folder(family), tmp_path / "ours", tmp_path / "back"
    report = quantize_folder(folder, ours, PackSettings(quantization))
    model = peer.load(ours)
    expected = peer.dense_weights(model)
    layers = packed_layers(ours)
    # They pack what we packed, and nothing else; our reader and theirs agree bit for bit.
    assert layers.keys() == expected.keys() == report.errors.keys()
    assert all(torch.equal(layer.weight, expected[path]) for path, layer in layers.items())
    # transformers 5.23 cannot save a model that it loaded packed (its operation has no reverse).
    ours_dict, state = load_file(ours / "model.safetensors"), model.state_dict()
    if family != "mixtral":  # the only one here whose names on disk are others
        back.mkdir()
        tied = {"lm_head.weight"} - ours_dict.keys()
        kept = {name: t.clone() for name, t in state.items() if name not in tied}
        save_file(kept, back / "model.safetensors", {"format": "pt"})
        tiny.tokenizer().save_pretrained(back)
        (back / "config.json").write_bytes((ours / "config.json").read_bytes())
        assert_equal_tensors(ours, back)


@pytest.mark.parametrize("name", peer.CONFIGS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_same_files_as_bitsandbytes_writes(
    family: str, name: str, family_folder, tmp_path: Path
) -> None:
    config = peer.CONFIGS[name]
    peer.save(family_folder(family), tmp_path / "theirs", **config)
    settings = PackSettings(
        config.get("bnb_4bit_quant_type", "int8"),
        double_quantization=config.get("bnb_4bit_use_double_quant", True),
        quant_storage=getattr(torch, config.get("bnb_4bit_quant_storage", "uint8")),
    )
    quantize_folder(family_folder(family), tmp_path / "ours", settings)
    theirs, ours = (load_file(tmp_path / who / "model.safetensors") for who in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert (ours[key].dtype, ours[key].shape) == (tensor.dtype, tensor.shape), key
        if "quant_state" in key:
            assert json.loads(bytes(ours[key].numpy())) == json.loads(bytes(tensor.numpy()))
        else:
            one, two = (t.reshape(-1).view(torch.uint8) for t in (ours[key], tensor))
            assert torch.equal(one, two), key
    values = [
        json.loads((tmp_path / who / "config.json").read_text()).pop("quantization_config")
        for who in ("theirs", "ours")
    ]
    # Theirs leaves the exceptions to a rule of transformers, ours names them.
    assert values[0].pop("llm_int8_skip_modules") is None
    assert values[1].pop("llm_int8_skip_modules") == ["lm_head"]
    assert values[0] == values[1]


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_block_sizes_and_storages_are_read_back_by_both(
    block_size: int, tiny_folder: Path, tmp_path: Path
) -> None:
    double = block_size != 64
    dtypes = list(writing.QUANT_STORAGES.values())
    quant_storage = dtypes[BLOCK_SIZES.index(block_size) % len(dtypes)]
    settings = PackSettings("nf4", block_size, double, quant_storage)
    quantize_folder(tiny_folder, tmp_path / "out", settings, max_shard_size="20KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    original, _ = load_base(tiny_folder, dtype=torch.float32, device="cpu")
    layers = packed_layers(tmp_path / "out")
    for path, layer in layers.items():
        expected = storage("nf4").pack(
            original.get_submodule(path).weight, block_size=block_size, double_quantization=double
        )
        tensors = layer.stored.tensors()
        assert all(torch.equal(t, tensors[name]) for name, t in expected.tensors().items())
    theirs = peer.dense_weights(peer.load(tmp_path / "out"))
    if block_size <= 64:  # their kernel takes wrong scales where blocks cross rows
        assert all(
            relative_error(theirs[p], m.weight) < 1e-6
            for p, m in layers.items()
            if (m.in_features % block_size == 0)
        )


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_dtypes_and_the_files_beside(dtype, tmp_path: Path) -> None:
    folder = families.folder(tmp_path / "base", "qwen2")
    (folder / "LICENSE").write_text("mine")
    report = quantize_folder(folder, tmp_path / "out", PackSettings("nf4", dtype=dtype))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"} <= written
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    original = json.loads((folder / "config.json").read_text())
    name = original["dtype"] if dtype is None else str(dtype).removeprefix("torch.")
    assert values["dtype"] == values["quantization_config"]["bnb_4bit_compute_dtype"] == name
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.norm.weight"].dtype == getattr(torch, name)
    assert report.bytes_after == sum(t.numel() * t.element_size() for t in tensors.values())
    assert report.bytes_after < report.bytes_before
    assert 0.05 < report.mean_error < 0.12
    assert report.left == {"lm_head": "output heads and expert routers stay as they are"}


@pytest.mark.parametrize("family", ["bamba", "mamba", "opt", "falcon_h1", "deepseek_v3"])
def test_odd_families_go_there(family: str, family_folder, tmp_path: Path) -> None:
    """Infinite values in the config, weights that are read directly, latent attention."""
    quantize_folder(family_folder(family), tmp_path / "out", PackSettings("nf4"))
    model, _ = load_base(
        tmp_path / "out", quantization="checkpoint", dtype=torch.float32, device="cpu"
    )
    theirs = peer.load(tmp_path / "out")
    assert peer.dense_weights(theirs).keys() == packed_layers(tmp_path / "out").keys()
    with torch.no_grad():
        assert relative_error(model(IDS).logits, theirs(IDS).logits) <= LOGITS_FLOAT32


def test_routers_and_experts_stay_and_are_named(family_folder, tmp_path: Path) -> None:
    report = quantize_folder(family_folder("qwen2_moe"), tmp_path / "out", PackSettings("nf4"))
    routers = [f"model.layers.{layer}.mlp.shared_expert_gate" for layer in (0, 1)]
    experts = [
        f"model.layers.{layer}.mlp.experts.{projection}"
        for layer in (0, 1)
        for projection in ("down_proj", "gate_up_proj")
    ]
    assert sorted(report.left) == sorted(["lm_head", *routers, *experts])
    assert all("fused experts" in report.left[path] for path in experts)
    # transformers knows nothing of experts as layers: they are no exceptions there.
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["quantization_config"]["llm_int8_skip_modules"] == sorted(["lm_head", *routers])
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    kept = [tensor.dtype for name, tensor in tensors.items() if ".experts." in name]
    assert kept and set(kept) == {torch.float32}
    assert report.is_hardly_smaller == (report.bytes_after > 0.8 * report.bytes_before)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_what_overflows_in_float16_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = tiny.folder(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[3] = 1e5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"'{name}' has values that are not finite in .*float16"):
        quantize_folder(folder, tmp_path / "out", PackSettings("nf4", dtype=torch.float16))
    assert not (tmp_path / "out").exists()
    quantize_folder(folder, tmp_path / "out", PackSettings("nf4", dtype=torch.bfloat16))


def test_what_overflows_in_int8_is_refused_by_name(tmp_path: Path) -> None:
    folder, name = tiny.folder(tmp_path / "base"), "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][0, 0] = 1e5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"'{name}' cannot be packed: .* up to 65504"):
        quantize_folder(folder, tmp_path / "out", PackSettings("int8"))


def test_replaced_and_added_tensors(tmp_path: Path) -> None:
    """What a merge passes through: changed weights, and a head that is no longer tied."""
    folder = families.folder(tmp_path / "base", "gpt2")
    (tmp_path / "out").mkdir()
    name, path = "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc"
    original = load_file(folder / "model.safetensors")
    changed, head = original[name] + 0.5, torch.randn(400, 32)
    replaced = {
        name: Replacement(changed.shape, changed.dtype, lambda: changed),
        "lm_head.weight": Replacement(head.shape, head.dtype, lambda: head),
    }
    values = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    report = write_quantized(
        folder,
        tmp_path / "out",
        PackSettings("nf4"),
        max_bytes=10**9,
        replaced=replaced,
        config=values,
    )
    tiny.tokenizer().save_pretrained(tmp_path / "out")
    layer = packed_layers(tmp_path / "out")[path]
    exact = storage("nf4").pack(changed.t().contiguous(), block_size=64, double_quantization=True)
    assert torch.equal(layer.weight, exact.dequantize())
    assert report.errors[path] == pytest.approx(relative_error(layer.weight, changed.t()), rel=1e-3)
    model = peer.load(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, head)
    assert not torch.equal(model.transformer.wte.weight, head)


def test_what_cannot_be_quantized_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    falcon = families.folder(tmp_path / "falcon", "falcon")
    done = tmp_path / "done"
    quantize_folder(tiny_folder, done, PackSettings("nf4"))
    odd = families.folder(tmp_path / "odd", "llama", intermediate_size=33, hidden_size=36)
    broken = families.folder(tmp_path / "broken", "llama")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    llama4 = families.folder(tmp_path / "llama4", "llama4_text")
    for folder, settings, words in (
        (llama4, PackSettings("nf4"), "builds a 'llama4_text' model of other modules"),
        (falcon, PackSettings("nf4"), "packs no layer of a 'falcon'"),
        (done, PackSettings("int8"), "already quantized, in nf4"),
        (odd, PackSettings("nf4", quant_storage=torch.float64), "possible for this model: uint8"),
        (broken, PackSettings("nf4"), r"up_proj.weight' has values that are not finite"),
        (tiny_folder, PackSettings("none"), "possible: nf4, fp4, int8"),
        (tiny_folder, PackSettings("nf4", 63), "block_size 63"),
        (tiny_folder, PackSettings("nf4", dtype=torch.float64), "dtype torch.float64"),
        (tmp_path / "absent", PackSettings("nf4"), "possible"),
    ):
        with pytest.raises(InputError, match=words):
            quantize_folder(folder, tmp_path / "out", settings)
        assert not (tmp_path / "out").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        quantize_folder(tiny_folder, tmp_path / "used", PackSettings("nf4"))
    with pytest.raises(ModelError, match="6GB"):
        quantize_folder(tiny_folder, tmp_path / "out", PackSettings("nf4"), max_shard_size="x")
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")} == set()


def test_what_reads_back_as_something_else_is_removed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(name, stored, quant_storage):
        tensors = right(name, stored, quant_storage)
        if name.endswith("layers.1.mlp.up_proj.weight"):
            tensors[name] = tensors[name].flip(0)
        return tensors

    right = packer.stored_tensors
    monkeypatch.setattr(packer, "stored_tensors", wrong)
    with pytest.raises(VerificationError, match=r"layers\.1\.mlp\.up_proj' reads back as another"):
        quantize_folder(tiny_folder, tmp_path / "out", PackSettings("nf4"))
    monkeypatch.undo()
    real = model_folder.save_file

    def forgetful(tensors, path, metadata) -> None:
        real({name: torch.zeros_like(t) for name, t in tensors.items()}, path, metadata)

    monkeypatch.setattr(model_folder, "save_file", forgetful)
    with pytest.raises(VerificationError, match="does not read back"):
        quantize_folder(tiny_folder, tmp_path / "out", PackSettings("nf4"))
    assert not list(tmp_path.iterdir())
