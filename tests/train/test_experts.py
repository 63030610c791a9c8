"""Training experts: packed == unpacked, recomputed == kept, resumed == uninterrupted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorakit.adapters.attach import attached
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests import families
from tests.tolerances import AFTER_ADAM_FLOAT32, LOSS_FLOAT32, relative_error
from tests.train import runs

SETTINGS = LoopSettings(
    max_steps=4,
    batch_size=4,
    learning_rate=1e-2,
    micro_batch_tokens=48,
    seed=5,
)


@pytest.fixture(params=["mixtral", "gpt_oss"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return families.folder(tmp_path / "base", request.param)


def run(folder: Path, settings: LoopSettings, run_dir: Path | None = None, **options: object):
    model = runs.adapted_model(folder, quantization="nf4")
    outcome = train(model, runs.ragged_examples(9), settings, run_dir=run_dir, **options)
    return outcome, runs.values(model), model


def test_neither_packing_nor_recompute_changes_the_run(folder: Path) -> None:
    expected, parameters, model = run(folder, SETTINGS)
    assert any(".experts." in name for name in attached(model).parameters())
    assert expected.metrics[-1]["loss"] < expected.metrics[0]["loss"]
    for settings in (
        replace(SETTINGS, packing=False),
        replace(SETTINGS, gradient_checkpointing=True),
    ):
        found, others, _ = run(folder, settings)
        first = found.metrics[0]["loss"] / expected.metrics[0]["loss"] - 1
        assert abs(first) < LOSS_FLOAT32
        for name, value in parameters.items():
            assert relative_error(others[name], value) < AFTER_ADAM_FLOAT32, name


def test_resumed_is_the_uninterrupted_run(folder: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    settings = replace(SETTINGS, save_steps=1, save_total_limit=9)
    expected, parameters, _ = run(folder, settings, whole)
    shutil.copytree(whole, resumed)
    for later in sorted((resumed / "checkpoints").iterdir()):
        if later.name in ("step-3", "step-4"):
            shutil.rmtree(later)
    found, others, _ = run(folder, settings, resumed, resume=True)
    assert runs.logged(found.metrics) == runs.logged(expected.metrics)
    assert all(torch.equal(others[name], value) for name, value in parameters.items())
