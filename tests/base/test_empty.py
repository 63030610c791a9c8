"""An empty base has the modules, dtypes and bytes of a loaded one; origins of every parameter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lorakit.base.empty import empty_base
from lorakit.base.info import base_info
from lorakit.base.load import load_base
from lorakit.base.origin import origins
from lorakit.base.storages import quantizations
from lorakit.errors import ModelError
from tests import families, tiny

MODEL_TYPES = sorted(families.FAMILIES)


def described(model: torch.nn.Module) -> dict[str, tuple]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: (tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors}


def modules(model: torch.nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


PACKED = sorted(set(quantizations()) - {"none"})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_empty_equals_loaded(model_type: str, family_folder) -> None:
    folder = family_folder(model_type)
    packed = PACKED[MODEL_TYPES.index(model_type) % len(PACKED)]
    for quantization, dtype in (("none", torch.float32), (packed, torch.bfloat16)):
        empty = empty_base(folder, quantization=quantization, dtype=dtype)
        loaded, _ = load_base(folder, quantization=quantization, dtype=dtype, device="cpu")
        assert modules(empty) == modules(loaded)
        assert described(empty) == described(loaded)
        assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))


def test_a_config_file_alone_is_enough(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "config.json", tmp_path / "config.json")
    expected = described(empty_base(tiny_folder, quantization="nf4"))
    assert described(empty_base(tmp_path, quantization="nf4")) == expected
    assert described(empty_base(tmp_path / "config.json", quantization="nf4")) == expected


def test_bytes_of_an_8b_model_without_its_weights(tmp_path: Path) -> None:
    tiny.config(
        "llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ).save_pretrained(tmp_path)
    model = empty_base(tmp_path, quantization="nf4", dtype=torch.bfloat16)
    linear = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    dense = 2 * 128256 * 4096 + (2 * 32 + 1) * 4096
    stored = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    blocks = linear // 64
    nested = 4 * blocks // 256 + 4 * 32 * 7
    assert stored == linear // 2 + blocks + nested + 2 * dense


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_origins_name_what_each_parameter_was_made_of(model_type: str, family_folder) -> None:
    folder = family_folder(model_type)
    loaded, _ = load_base(folder, dtype=torch.float32, device="cpu")
    found = origins(loaded)
    tied = set(loaded.all_tied_weights_keys)
    state = loaded.state_dict()
    assert state.keys() - tied <= found.keys()
    for name, parts in found.items():
        for part in parts:
            tensor = part.read()
            if not part.converted:
                assert torch.equal(tensor, state[name])
    assert origins(folder) == found


def test_origin_hashes(tiny_folder: Path) -> None:
    (origin,) = origins(tiny_folder)["model.layers.0.mlp.up_proj.weight"]
    assert len(origin.sha256()) == 64
    (other,) = origins(tiny_folder)["model.layers.1.mlp.up_proj.weight"]
    assert origin.sha256() == origin.sha256() != other.sha256()


def test_base_info(tiny_folder: Path) -> None:
    model, _ = load_base(tiny_folder, quantization="nf4", dtype=torch.float32, device="cpu")
    info = base_info(model)
    assert (info.folder, info.quantization, info.dtype) == (tiny_folder, "nf4", torch.float32)
    assert len(info.config_sha256) == 64
    with pytest.raises(ModelError, match="load_base"):
        base_info(tiny.model())


def test_a_packed_model_is_a_plain_one_to_trainers(tiny_folder: Path) -> None:
    model, _ = load_base(tiny_folder, quantization="nf4", dtype=torch.float32, device="cpu")
    assert not model.is_quantized
    assert not hasattr(model, "hf_quantizer") and not hasattr(model, "quantization_method")
    written = model.config.to_dict()
    assert "quantization_config" not in written and "_is_quantized" not in vars(model.config)
    ids = torch.randint(5, 390, (1, 9))
    before = model(ids).logits
    assert torch.allclose(model.to(torch.float64)(ids).logits.float(), before, atol=1e-5)


def test_dropout_and_router_noise_are_off(tmp_path: Path) -> None:
    tiny.folder(tmp_path, "gpt2", resid_pdrop=0.3, attn_pdrop=0.2, embd_pdrop=0.1)
    model, _ = load_base(tmp_path, dtype=torch.float32, device="cpu")
    ids = torch.randint(5, 390, (1, 9))
    assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["resid_pdrop"] == 0.3
    tiny.folder(tmp_path / "moe", "mixtral", router_jitter_noise=0.5, attention_dropout=0.5)
    model, _ = load_base(tmp_path / "moe", dtype=torch.float32, device="cpu")
    assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)
