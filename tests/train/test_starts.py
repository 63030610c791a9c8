"""Inits that are part of the base, through a run: what is saved, resumed, evaluated and loaded."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import lorakit
from lorakit.adapters.attach import adapter_disabled, attach_adapter, attached
from lorakit.adapters.starting import restore_starts
from lorakit.base.load import load_base
from lorakit.data.calibration import UNTRAINED, calibration_batches
from lorakit.errors import AdapterError, CheckpointError
from lorakit.recipe import LoraConfig
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.identity import frozen_weights_hash
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests import tiny
from tests.adapters.bases import logits
from tests.tolerances import relative_error
from tests.train import runs

SETTINGS = LoopSettings(
    max_steps=4, batch_size=4, learning_rate=1e-2, micro_batch_tokens=48, seed=5, save_steps=1
)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("none", {"init_lora_weights": "pissa_niter_2", "use_dora": True, "lora_dropout": 0.1}),
    ("nf4", {"init_lora_weights": "pissa_niter_2", "use_dora": True}),
    ("nf4", {"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 2}}),
]


def adapted(folder: Path, storage: str, config: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    model, _ = load_base(folder, quantization=storage, device="cpu")
    attach_adapter(model, LoraConfig(**({"r": 4} | config)), seed=seed)
    return model


def final(run: Path) -> dict[str, bytes]:
    folder = run / "checkpoints" / "step-4"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def go_on(run: Path, model: PreTrainedModel, settings: LoopSettings = SETTINGS) -> None:
    """Resume from step 2."""
    for step in (3, 4):
        shutil.rmtree(run / "checkpoints" / f"step-{step}")
    train(model, runs.ragged_examples(), settings, run_dir=run, resume=True)


@pytest.mark.parametrize(("storage", "config"), CASES)
def test_resumed_is_the_uninterrupted_run(
    tiny_folder: Path, tmp_path: Path, storage: str, config: dict[str, Any]
) -> None:
    """Even when the init computes other factors the second time: those of the checkpoint count."""
    settings = replace(SETTINGS, save_total_limit=9)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    one = adapted(tiny_folder, storage, config)
    train(one, runs.ragged_examples(), settings, run_dir=whole)
    assert set(final(whole)) == {
        f"{name}.safetensors" for name in ("parameters", "optimizer", "starts")
    }
    shutil.copytree(whole, resumed)
    two = adapted(tiny_folder, storage, config, seed=1)
    other = attached(two).kept_starts()
    for name, tensor in other.items() if config["init_lora_weights"] == "loftq" else ():
        tensor.mul_(1 + 1e-3 * (name.endswith("A")))
    before = logits(two)
    go_on(resumed, two, settings)
    assert final(resumed) == final(whole)
    assert torch.equal(logits(two), logits(one)) and not torch.equal(logits(two), before)
    with adapter_disabled(one), adapter_disabled(two):
        assert torch.equal(logits(two), logits(one))


def test_a_start_is_not_what_tells_bases_apart(tiny_folder: Path, tmp_path: Path) -> None:
    pissa = {"init_lora_weights": "pissa_niter_1"}
    one, two = (adapted(tiny_folder, "nf4", pissa, seed=seed) for seed in (0, 1))
    assert not torch.equal(logits(one), logits(two))
    assert frozen_weights_hash(one) == frozen_weights_hash(two)
    other = tiny.folder(tmp_path / "other", "llama", seed=1)
    assert frozen_weights_hash(adapted(other, "nf4", pissa)) != frozen_weights_hash(one)


@pytest.mark.parametrize("change", [{"loftq_config": {"loftq_iter": 3}}, {"loftq_config": None}])
def test_another_init_is_another_run(tiny_folder: Path, tmp_path: Path, change: dict) -> None:
    config = CASES[2][1]
    settings = replace(SETTINGS, save_total_limit=9)
    train(adapted(tiny_folder, "nf4", config), runs.ragged_examples(), settings, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"adapter\.loftq_config"):
        go_on(tmp_path, adapted(tiny_folder, "nf4", config | change), settings)


def test_starts_that_cannot_be_restored_are_told() -> None:
    """A dense model that no checkpoint is known of: what was taken out cannot be put back."""
    model = tiny.model("llama")
    adapter = attach_adapter(model, LoraConfig(r=4, init_lora_weights="pissa"))
    same = {name: tensor.clone() for name, tensor in adapter.kept_starts().items()}
    before = logits(model)
    restore_starts(model, adapter, same)
    assert torch.equal(logits(model), before)
    next(iter(same.values())).mul_(1.01)
    with pytest.raises(AdapterError, match="cannot be read again"):
        restore_starts(model, adapter, same)


def test_the_checkpoint_holds_every_factor_once(tiny_folder: Path, tmp_path: Path) -> None:
    for (storage, config), parts in (
        (CASES[0], {"subtracted_A", "subtracted_B"}),
        (CASES[2], {"start_A", "start_B", "subtracted_A", "subtracted_B"}),
    ):
        run = tmp_path / config["init_lora_weights"]
        model = adapted(tiny_folder, storage, config)
        train(model, runs.ragged_examples(), replace(SETTINGS, max_steps=1), run_dir=run)
        starts = read_checkpoint(run / "checkpoints" / "step-1").tensors["starts"]
        assert {name.rpartition(".")[2] for name in starts} == parts
        assert len(starts) == 14 * len(parts)


def test_calibration_batches_are_the_beginning_of_the_first_epoch() -> None:
    examples = runs.ragged_examples(40)
    batches = list(calibration_batches(examples, None, seed=3, token_budget=60))
    again = list(calibration_batches(examples, None, seed=3, token_budget=60))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(batches, again, strict=True) for k in a)
    assert sum(len(batch["input_ids"]) for batch in batches) == 40
    for batch in batches:
        assert batch["input_ids"].numel() <= 60
        counted = batch["labels"] != UNTRAINED
        assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
        assert not (counted & (batch["attention_mask"] == 0)).any()
    trained = sum(int((batch["labels"] != UNTRAINED).sum()) for batch in batches)
    assert trained == examples.trained_lengths.sum()
    few = calibration_batches(examples, None, seed=3, token_budget=60, max_batches=2)
    assert len(list(few)) == 2


@pytest.mark.parametrize("init", ["pissa", "eva"])
def test_the_whole_way(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, init: str
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is asthma {n}?"},
                {"role": "assistant", "content": f"A chronic disease of the airways, {n} days."},
            ]
        }
        for n in range(12)
    ]
    data, run = tmp_path / "rows.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(tiny_folder), "quantization": "nf4", "dtype": "float32"},
            "adapter": {"r": 4, "init_lora_weights": init},
            "data": {"train": str(data), "validation": 0.25},
            "train": {"max_steps": 1, "learning_rate": 1e-2},
            "output": {"dir": str(run)},
        }
    )
    with caplog.at_level(logging.INFO):
        outcome = lorakit.finetune(recipe)
    lines = [record.message for record in caplog.records if record.message.startswith("init ")]
    expected = {
        "pissa": "error of the quantized base against the original weights",
        "eva": "tokens seen; ranks from",
    }
    assert len(lines) == 1 and expected[init] in lines[0]
    model, _ = lorakit.load_base(tiny_folder, quantization="nf4", dtype=torch.float32)
    lorakit.load_adapter(model, run / "adapter")
    again = lorakit.evaluate_run(run)
    for name, result in outcome.evaluation.items():
        assert again[name].to_json() == result.to_json()
    dense, _ = lorakit.load_base(tiny_folder, dtype=torch.float32)
    quantized, _ = lorakit.load_base(tiny_folder, quantization="nf4", dtype=torch.float32)
    with adapter_disabled(model):
        closer = relative_error(logits(model), logits(dense))
    plain = relative_error(logits(quantized), logits(dense))
    assert closer < plain if init == "pissa" else closer == plain
