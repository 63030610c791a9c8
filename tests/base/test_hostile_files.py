"""Law 12 for model folders: whatever is in them, the answer is a ModelError with advice."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.base.load import load_base, load_tokenizer_of
from lorakit.errors import ModelError
from tests import tiny

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A fresh copy of a good model folder."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_base(folder, dtype=torch.float32, device="cpu")
    message = str(caught.value)
    assert "ossible" in message, message
    for word in words:
        assert word in message, message


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))


CONFIG_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "auto_map": ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
    "nested auto_map": ({"text_config": {"auto_map": {}}}, "auto_map"),
    "auto_map in a list": ({"parts": [{"auto_map": {}}]}, "auto_map"),
    "newline in model_type": ({"model_type": "llama\nimport os"}, "model_type"),
    "newline at the end": ({"model_type": "llama\n"}, "model_type"),
    "nested newline": ({"text_config": {"model_type": "x\ny"}}, "model_type"),
    "no model_type": ({"model_type": None}, "model_type"),
    "number as model_type": ({"model_type": 7}, "model_type"),
    "path as model_type": ({"model_type": "../../evil"}, "model_type"),
    "unknown model_type": ({"model_type": "gpt9"}, "gpt9"),
    "encoder": ({"model_type": "bert"}, "encoder"),
    "encoder-decoder": ({"model_type": "bart"}, "encoder-decoder"),
    "not causal": ({"model_type": "clip"}, "clip"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    "nested quantization": (
        {"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}},
        "bitsandbytes",
    ),
    "quantized by text": ({"quantization_config": "evil"}, "evil"),
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "negative heads": ({"num_attention_heads": -4}, "num_attention_heads"),
    "zero hidden": ({"hidden_size": 0}, "hidden_size"),
    "text as size": ({"hidden_size": "32"}, "hidden_size"),
    "true as size": ({"vocab_size": True}, "vocab_size"),
    "huge integer": ({"whatever": 10**30}, "whatever"),
    "bad rope": ({"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1.0}}, "llama"),
    "unknown activation": ({"hidden_act": "nonsense"}, "nonsense"),
    "sizes that do not fit": ({"intermediate_size": 48}, "shape"),
    "a model of terabytes": (
        {"hidden_size": 1 << 20, "intermediate_size": 1 << 22, "num_hidden_layers": 8},
        "describes",
    ),
    "more layers than weights": ({"num_hidden_layers": 3}, "missing"),
    "fewer layers than weights": ({"num_hidden_layers": 1}, "not expected"),
}


@pytest.mark.parametrize("name", CONFIG_FAULTS)
def test_configs(folder: Path, name: str) -> None:
    changes, word = CONFIG_FAULTS[name]
    edit_config(folder, **changes)
    refused(folder, word)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\ufeff{", "[" * 100_000])
def test_config_files_that_are_no_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    refused(folder, "config.json")


def test_config_with_invalid_utf8(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "\xff"}')
    refused(folder, "config.json")


def test_keys_that_choose_code_are_removed_in_nested_configs_too(folder: Path) -> None:
    evil = {
        "_attn_implementation": "evil/kernel",
        "_attn_implementation_internal": "evil/kernel",
        "_experts_implementation": "evil/kernel",
        "attn_implementation": "evil/kernel",
        "fusion_config": {"patch_embeddings": True},
        "transformers_weights": "../evil.safetensors",
        "trust_remote_code": True,
    }
    edit_config(folder, **evil, extra={"deep": [evil]})
    model, _ = load_base(folder, dtype=torch.float32, device="cpu")
    assert model.config._attn_implementation == "lorakit"
    written = json.dumps(model.config.to_dict(), default=str)
    assert "evil" not in written and "trust_remote_code" not in written


def test_adapter_config_in_the_folder_is_not_loaded(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    model, _ = load_base(folder, dtype=torch.float32, device="cpu")
    assert not any("lora" in name for name, _ in model.named_parameters())


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def append(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes() + b"\0" * 8)


def only_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:4])


def empty_file(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def huge_header(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**63) + raw[8:])


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        changed = change(header)
        text = json.dumps(header if changed is None else changed).encode()
        data = raw[8 + length :]
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)

    return write


def first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in header.items() if name != "__metadata__")


WEIGHT_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "broken"),
    "bytes after the end": (append, "broken"),
    "shorter than a header": (only_header, "broken"),
    "empty": (empty_file, "broken"),
    "header of 2**63 bytes": (huge_header, "header"),
    "header is a list": (with_header(lambda header: [1]), "broken"),
    "header entry is a number": (with_header(lambda h: h.update(x=1)), "'x'"),
    "unknown dtype": (with_header(lambda h: first(h).update(dtype="F7")), "F7"),
    "dtype is a list": (with_header(lambda h: first(h).update(dtype=["F32"])), "dtype"),
    "negative shape": (with_header(lambda h: first(h).update(shape=[-1, -5])), "shape"),
    "shape of text": (with_header(lambda h: first(h).update(shape="32")), "shape"),
    "shape product overflows": (with_header(lambda h: first(h).update(shape=[2**62, 8])), "shape"),
    "offsets backwards": (with_header(lambda h: first(h).update(data_offsets=[8, 0])), "bytes"),
    "offsets out of the file": (
        with_header(lambda h: first(h).update(shape=[10**9], data_offsets=[0, 4 * 10**9])),
        "after the file",
    ),
    "three offsets": (with_header(lambda h: first(h).update(data_offsets=[0, 1, 2])), "offsets"),
    "missing tensor": (with_header(lambda h: h.pop(next(iter(h)))), "broken"),
    "not safetensors": (lambda f: (f / WEIGHTS).write_bytes(b"PK\3\4" + b"x" * 100), "broken"),
}


@pytest.mark.parametrize("name", WEIGHT_FAULTS)
def test_weights(folder: Path, name: str) -> None:
    fault, word = WEIGHT_FAULTS[name]
    fault(folder)
    refused(folder, word)


def test_missing_and_surplus_tensors_are_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.evil.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    refused(folder, "model.norm.weight", "model.evil.weight")


def shard(folder: Path, weight_map: dict[str, str] | None = None, **more: str) -> None:
    """Turn the single file into one shard with an index."""
    names = load_file(folder / WEIGHTS).keys()
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    good = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    index = {"weight_map": (weight_map if weight_map is not None else good) | more}
    (folder / INDEX).write_text(json.dumps(index))


def test_a_sharded_folder_loads(folder: Path) -> None:
    shard(folder)
    load_base(folder, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    "place",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/outside.safetensors",
        "..\\outside.safetensors",
        "outside.bin",
        "..",
        "",
        "x\0.safetensors",
    ],
)
def test_an_index_may_not_leave_the_folder(folder: Path, place: str) -> None:
    save_file({"evil": torch.zeros(1)}, folder.parent / "outside.safetensors")
    shard(folder, evil=place)
    refused(folder, INDEX)


def test_an_index_may_not_name_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")  # opening it would hang
    shard(folder, evil="pipe.safetensors")
    refused(folder, "regular file")


def test_weights_may_not_be_a_pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    refused(folder, "regular file")


def test_an_index_that_names_a_missing_shard(folder: Path) -> None:
    shard(folder, evil="model-00002-of-00002.safetensors")
    refused(folder, "model-00002-of-00002.safetensors", "missing")


def test_an_index_that_disagrees_with_its_shards(folder: Path) -> None:
    shard(folder, evil="model-00001-of-00001.safetensors")
    refused(folder, "evil")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_broken_indexes(folder: Path, text: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(text)
    refused(folder, INDEX)


def test_pickled_weights_are_refused_by_name(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(folder, "pytorch_model.bin", "safetensors")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refused(folder, "no weights")


def test_no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused(folder, "tokenizer")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer_of(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'])
def test_tokenizer_configs(folder: Path, text: str) -> None:
    (folder / "tokenizer_config.json").write_text(text)
    refused(folder, "tokenizer_config.json")


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "tokenizer")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_generation_config(folder: Path, text: str) -> None:
    (folder / "generation_config.json").write_text(text)
    refused(folder, "generation_config.json")


@pytest.mark.parametrize("model", ["no/such/folder/here", "/nowhere", "a b", "../x", ""])
def test_what_is_neither_folder_nor_hub_id(model: str) -> None:
    with pytest.raises(ModelError, match=r"base\.model"):
        load_base(model)


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"base\.model"):
        load_base(folder / WEIGHTS)


def test_options_that_are_not_possible(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="nf4"):
        load_base(tiny_folder, quantization="nf5")
    with pytest.raises(ModelError, match="dtype"):
        load_base(tiny_folder, dtype=torch.int8)
    with pytest.raises(ModelError, match="device"):
        load_base(tiny_folder, device="abacus")
    with pytest.raises(ModelError, match="max_device_memory"):
        load_base(tiny_folder, max_device_memory="lots")
    with pytest.raises(ModelError, match="revision"):
        load_base(tiny_folder, revision="main")


def test_tiny_helpers_make_a_good_folder(tmp_path: Path) -> None:
    load_base(tiny.folder(tmp_path, "gpt2"), dtype=torch.float32, device="cpu")
