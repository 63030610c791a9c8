"""Files of PEFT's whose options are read as loosely as PEFT reads them."""

from __future__ import annotations

import logging
from pathlib import Path

import peft
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests import tiny
from tests.adapters.bases import logits
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft
from tests.tolerances import LOGITS_FLOAT32, relative_error

READ: dict[str, dict[str, object]] = {
    "biases where no target has one": {"target_modules": ["o_proj"], "bias": "lora_only"},
    "a layer whose targets are excluded": {
        "target_modules": ["q_proj"],
        "exclude_modules": r".*layers\.1\..*",
        "layers_to_transform": [0, 1],
    },
    "a layer that targets named in full are not in": {
        "target_modules": ["layers.0.self_attn.q_proj"],
        "layers_to_transform": [0, 1],
    },
    "a regex for the list of layers": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": r"lay\w+",
    },
    "one of two patterns": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": ["blocks", "(layers|h)"],
    },
    "a head that pissa changed": {
        "target_modules": ["q_proj", "lm_head"],
        "init_lora_weights": "pissa",
    },
    "a head that olora changed": {
        "target_modules": ["q_proj", "lm_head"],
        "init_lora_weights": "olora",
    },
}


def made(folder: Path, **options: object) -> PreTrainedModel:
    """A model of PEFT's, and its adapter saved in `folder`."""
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", **options)
    model = make_in_peft(tiny.model("qwen2"), config)
    save_from_peft(model, folder)
    return model


@pytest.mark.parametrize("case", READ)
def test_what_peft_passes_over_is_read(tmp_path: Path, case: str) -> None:
    theirs = made(tmp_path / "theirs", **READ[case])
    ours = tiny.model("qwen2")
    load_adapter(ours, tmp_path / "theirs")
    assert relative_error(logits(ours), logits(theirs)) <= LOGITS_FLOAT32
    save_adapter(ours, tmp_path / "ours")
    back = load_in_peft(tiny.model("qwen2"), tmp_path / "ours")
    assert relative_error(logits(back), logits(theirs)) <= LOGITS_FLOAT32


def test_the_base_is_checked_beside_a_head_that_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made(tmp_path / "a", **READ["a head that pissa changed"])
    ours = tiny.model("qwen2")
    load_adapter(ours, tmp_path / "a")
    assert "lm_head.base_layer.weight' is what the init left" in caplog.text
    made(tmp_path / "b", target_modules=["q_proj", "lm_head"])
    other = tiny.model("qwen2")
    other.lm_head.weight.data.add_(1)
    with pytest.raises(AdapterError, match="which differs from the base's weight"):
        load_adapter(other, tmp_path / "b")


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_tied_head_that_an_init_changed_is_refused(tmp_path: Path, init: str) -> None:
    """PEFT takes the part out of the embedding too, and loads it so: another model than ours."""
    tied = tiny.model("llama", tie_word_embeddings=True)
    options = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": init}
    theirs = make_in_peft(tied, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **options))
    save_from_peft(theirs, tmp_path / "a")
    assert not torch.equal(
        theirs.get_input_embeddings().weight,
        tiny.model("llama", tie_word_embeddings=True).get_input_embeddings().weight,
    )
    model = tiny.model("llama", tie_word_embeddings=True)
    with pytest.raises(AdapterError, match="tied to the input embedding: PEFT changes both"):
        load_adapter(model, tmp_path / "a")


@pytest.mark.parametrize("pattern", ["(layers", ["layers", "*"]])
def test_a_pattern_that_is_none_is_refused(pattern: object) -> None:
    config = LoraConfig(r=2, layers_to_transform=[0], layers_pattern=pattern)
    with pytest.raises(AdapterError, match=r"layers_pattern .* is no regular expression"):
        attach_adapter(tiny.model("qwen2"), config)


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
        {"init_lora_weights": "eva"},
        {"lora_dropout": 0.1},
    ],
)
def test_options_of_linear_layers_are_refused_where_there_are_none(
    options: dict[str, object],
) -> None:
    model = tiny.model("qwen2")
    batches = [{"input_ids": logits(model).argmax(-1)}] if "eva" in options.values() else None
    config = LoraConfig(r=2, target_modules=["embed_tokens"], **options)
    with pytest.raises(AdapterError, match=rf"{next(iter(options))} .*cannot take effect"):
        attach_adapter(model, config, calibration=batches)
    both = LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], lora_dropout=0.1)
    attach_adapter(model, both)
