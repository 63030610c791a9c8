"""Law 12 for packed checkpoints: whatever is in them is told as a ModelError with advice, before a
tensor is read into a model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.base import load as loading
from lorakit.base.empty import empty_base
from lorakit.base.load import load_base
from lorakit.base.write_quantized import PackSettings, quantize_folder
from lorakit.errors import ModelError
from tests import families

NAME = "model.layers.1.mlp.up_proj.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Path]:
    """Good packed folders by their kind."""
    root = tmp_path_factory.mktemp("packed")
    settings = {
        "double": PackSettings("nf4"),
        "plain": PackSettings("nf4", double_quantization=False),
        "int8": PackSettings("int8"),
    }
    for kind, chosen in settings.items():
        quantize_folder(tiny_folder, root / kind, chosen)
    return {kind: root / kind for kind in settings}


@pytest.fixture
def refused(good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`refused(kind, words, tensors=change, config=change)`: a changed copy is refused."""

    def never(*_: object) -> None:
        raise AssertionError("a model was being made")

    def check(
        kind: str,
        *words: str,
        tensors: Callable[[Tensors], object] = lambda tensors: None,
        config: Callable[[dict[str, Any]], object] = lambda values: None,
    ) -> None:
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good[kind], folder)
        held = load_file(folder / "model.safetensors")
        tensors(held)
        save_file(held, folder / "model.safetensors", {"format": "pt"})
        values = json.loads((folder / "config.json").read_text())
        config(values["quantization_config"])
        (folder / "config.json").write_text(json.dumps(values))
        monkeypatch.setattr(loading, "_read_tensors", never)
        for load in (load_base, empty_base):
            with pytest.raises(ModelError) as caught:
                load(folder, quantization="checkpoint")
            for word in ("ossible", *words):
                assert word in str(caught.value), str(caught.value)

    return check


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: make(tensors[name])})


def state(**changes: object) -> Callable[[Tensors], object]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        values = json.loads(bytes(tensor.numpy())) | changes
        return text(json.dumps({k: v for k, v in values.items() if v != "absent"}))

    return put(STATE, change)


def text(content: str) -> torch.Tensor:
    return torch.tensor(list(content.encode()), dtype=torch.uint8)


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([tensor.shape[0] - 1]), float("nan"))


DOUBLE: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "no absmax": (lambda t: t.pop(f"{NAME}.absmax"), "'absmax' is missing"),
    "no quant_map": (lambda t: t.pop(f"{NAME}.quant_map"), "'quant_map' is missing"),
    "no nested_absmax": (lambda t: t.pop(f"{NAME}.nested_absmax"), "'nested_absmax' is missing"),
    "no nested map": (lambda t: t.pop(f"{NAME}.nested_quant_map"), "'nested_quant_map' is missing"),
    "no state": (lambda t: t.pop(STATE), "its states are []"),
    "no weight": (lambda t: t.pop(NAME), f"belongs to '{NAME}', which is missing"),
    "two states": (
        lambda t: t.update({STATE.replace("nf4", "fp4"): t[STATE].clone()}),
        "its states are",
    ),
    "unknown state": (
        lambda t: t.update({STATE.replace("nf4", "nf3"): t.pop(STATE)}),
        "bitsandbytes__nf3",
    ),
    "state of the other": (
        lambda t: t.update({STATE.replace("nf4", "fp4"): t.pop(STATE)}),
        "quant_type = 'nf4'",
    ),
    "8-bit scales as well": (
        lambda t: t.update({NAME.replace("weight", "SCB"): torch.ones(64)}),
        "both 8-bit companions",
    ),
    "codes too short": (put(NAME, lambda t: t[:-1].clone()), "1023 bytes of U8"),
    "codes too long": (put(NAME, lambda t: torch.cat([t, t])), "2048 bytes of U8"),
    "absmax too short": (put(f"{NAME}.absmax", lambda t: t[:-1].clone()), "not U8 (32,)"),
    "absmax not codes": (put(f"{NAME}.absmax", lambda t: t.float()), "F32 (32,), not U8"),
    "nested too long": (
        put(f"{NAME}.nested_absmax", lambda t: torch.cat([t, t])),
        "F32 (2,), not F32 (1,)",
    ),
    "nested of another dtype": (put(f"{NAME}.nested_absmax", torch.Tensor.half), "not F32 (1,)"),
    "nested NaN": (put(f"{NAME}.nested_absmax", nan), "not finite"),
    "nested infinite": (put(f"{NAME}.nested_absmax", lambda t: t * 0 + 2e38), "not finite"),
    "another map": (
        put(f"{NAME}.quant_map", lambda t: t.flip(0)),
        "'quant_map' is not that of nf4",
    ),
    "NaN in the map": (put(f"{NAME}.quant_map", nan), "'quant_map' is not that of nf4"),
    "short map": (put(f"{NAME}.quant_map", lambda t: t[:8].clone()), "not F32 (16,)"),
    "another nested map": (
        put(f"{NAME}.nested_quant_map", lambda t: t * 1.01),
        "'nested_quant_map' is not that of nf4",
    ),
    "state is no JSON": (put(STATE, lambda t: text("{")), "not JSON"),
    "state is deep": (put(STATE, lambda t: text("[" * 4000)), "not JSON"),
    "state is a list": (put(STATE, lambda t: text("[]")), "not an object"),
    "state is long": (put(STATE, lambda t: text(" " * 5000 + "{}")), "5002 elements"),
    "state is no bytes": (put(STATE, torch.Tensor.float), "elements of F32"),
    "other keys": (state(evil=1), "not an object of"),
    "half of nested": (state(nested_offset="absent"), "not an object of"),
    "block size 48": (state(blocksize=48), "blocksize = 48"),
    "block size true": (state(blocksize=True), "blocksize = True"),
    "block size of another": (state(blocksize=32), "not U8 (64,)"),
    "dtype": (state(dtype="int8"), "dtype = 'int8'"),
    "dtype by attribute": (state(dtype="__dict__"), "dtype = '__dict__'"),
    "shape of another layer": (state(shape=[32, 64]), "needs (64, 32)"),
    "shape of a terabyte": (state(shape=[1 << 20, 1 << 20]), "1024 bytes of U8"),
    "shape negative": (state(shape=[-64, -32]), "shape = [-64, -32]"),
    "shape empty": (state(shape=[]), "shape = []"),
    "shape of text": (state(shape="64x32"), "shape = '64x32'"),
    "nested block size": (state(nested_blocksize=64), "nested_blocksize = 64"),
    "nested dtype": (state(nested_dtype="float16"), "nested_dtype = 'float16'"),
    "nested offset NaN": (state(nested_offset=float("nan")), "nested_offset = nan"),
    "nested offset text": (state(nested_offset="0"), "nested_offset = '0'"),
    "nested offset huge": (state(nested_offset=1e300), "not finite"),
}


@pytest.mark.parametrize("name", DOUBLE)
def test_four_bit(refused, name: str) -> None:
    change, word = DOUBLE[name]
    refused("double", "up_proj", word, tensors=change)


def test_four_bit_without_double_quantization(refused) -> None:
    for change, word in (
        (put(f"{NAME}.absmax", nan), "'absmax' has values that are not finite"),
        (put(f"{NAME}.absmax", lambda t: t.byte()), "U8 (32,), not F32 (32,)"),
        (lambda t: t.update({f"{NAME}.nested_absmax": torch.ones(1)}), "'nested_absmax' is extra"),
    ):
        refused("plain", "up_proj", word, tensors=change)


def test_eight_bit(refused) -> None:
    scales, form = NAME.replace("weight", "SCB"), NAME.replace("weight", "weight_format")
    for change, word in (
        (lambda t: t.pop(scales), "'SCB' is missing"),
        (lambda t: t.pop(NAME), "which is missing"),
        (put(scales, nan), "'SCB' has values that are not finite"),
        (put(scales, lambda t: t[:-1].clone()), "F32 (63,), not F32 (64,)"),
        (put(scales, torch.Tensor.half), "F16 (64,), not F32 (64,)"),
        (put(NAME, torch.Tensor.float), "F32 (64, 32), not I8"),
        (put(NAME, lambda t: t[None].clone()), "not two dimensions"),
        (put(form, lambda t: t + 1), "'weight_format' is not 0"),
        (put(form, lambda t: t[None].clone()), "U8 (1,), not U8 ()"),
    ):
        refused("int8", "up_proj", word, tensors=change)


def test_a_transposed_eight_bit_weight(refused) -> None:
    def turn(tensors: Tensors) -> None:
        tensors[NAME] = tensors[NAME].t().contiguous()
        tensors[NAME.replace("weight", "SCB")] = torch.ones(32)

    refused("int8", "needs (64, 32)", tensors=turn)


def test_configs(refused) -> None:
    for changes, word in (
        ({"evil": 1}, "unknown key 'evil'"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"bnb_4bit_compute_dtype": "__dict__"}, "bnb_4bit_compute_dtype = '__dict__'"),
        ({"bnb_4bit_quant_storage": 7}, "bnb_4bit_quant_storage = 7"),
        ({"bnb_4bit_quant_type": "nf3"}, "bnb_4bit_quant_type = 'nf3'"),
        ({"bnb_4bit_use_double_quant": 1}, "bnb_4bit_use_double_quant = 1"),
        ({"llm_int8_skip_modules": "lm_head"}, "llm_int8_skip_modules = 'lm_head'"),
        ({"llm_int8_skip_modules": [1]}, "llm_int8_skip_modules = [1]"),
        ({"llm_int8_threshold": "6"}, "llm_int8_threshold = '6'"),
        ({"llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight = True"),
        ({"load_in_8bit": True}, "load_in_4bit = load_in_8bit = True"),
        ({"load_in_4bit": False}, "load_in_4bit = load_in_8bit = False"),
    ):
        refused("double", word, config=lambda values, changes=changes: values.update(changes))


def test_what_claims_to_be_packed_and_is_not(refused) -> None:
    def unpack(tensors: Tensors) -> None:
        for name in [name for name in tensors if "proj" in name]:
            tensors.pop(name)

    refused("double", "none is", tensors=unpack)


def test_packed_layers_that_cannot_be(tmp_path: Path, good: dict[str, Path]) -> None:
    """A packed embedding, and a packed head that shares its weight with one."""
    for kind, family, target in (
        ("embedding", "llama", "model.embed_tokens"),
        ("tied", "gpt2", "lm_head"),
    ):
        folder = families.folder(tmp_path / f"{kind}-dense", family)
        quantize_folder(folder, tmp_path / kind, PackSettings("nf4"))
        tensors = load_file(tmp_path / kind / "model.safetensors")
        donor = load_file(good["double"] / "model.safetensors")
        tensors.pop(f"{target}.weight", None)
        for name, tensor in donor.items():
            if name.startswith(NAME):
                tensors[name.replace(NAME, f"{target}.weight")] = tensor
        save_file(tensors, tmp_path / kind / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=rf"'{target}', a .*possible: packed linear layers"):
            load_base(tmp_path / kind, quantization="checkpoint")


def test_companions_in_a_folder_that_does_not_say_so(good: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(good["double"], tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    del values["quantization_config"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not expected by this architecture"):
        load_base(tmp_path / "model", dtype=torch.float32, device="cpu")
