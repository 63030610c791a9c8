"""Training experts: packed == unpacked, recomputed == kept, resumed == uninterrupted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.adapters.routers import trained_routers
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
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


ROUTERS = {
    "modules_to_save": ("mixtral", {"modules_to_save": ["gate"]}),
    "target_modules": ("gemma4_text", {"target_modules": ["q_proj", "router.proj"]}),
    "bias": ("gpt_oss", {"bias": "all"}),
}


@pytest.mark.parametrize("way", ROUTERS)
def test_a_router_that_would_train_is_refused_by_name(way: str, tmp_path: Path) -> None:
    model_type, options = ROUTERS[way]
    base = families.folder(tmp_path / "base", model_type)
    model = runs.adapted_model(base, target_parameters=[], **options)
    assert trained_routers(attached(model))
    with pytest.raises(AdapterError, match=r"trains routers of experts .*layers\.0\..*lora_only"):
        train(model, runs.ragged_examples(9), SETTINGS, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model_type", families.FAMILIES)
def test_all_linear_trains_no_router(model_type: str) -> None:
    model = families.build(model_type)
    assert not trained_routers(attach_adapter(model, LoraConfig(r=2)))


def test_no_auxiliary_loss_whatever_the_config_says(tmp_path: Path) -> None:
    """And the loss of a micro-batch is that of transformers without it."""
    losses = []
    for wants in (False, True):
        base = families.folder(tmp_path / str(wants), "mixtral", output_router_logits=wants)
        model = runs.adapted_model(base)
        losses.append(train(model, runs.ragged_examples(9), SETTINGS).metrics[0]["loss"])
    assert losses[0] == losses[1]
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=ids, output_router_logits=True)
    assert theirs.aux_loss > 0
