"""Every optimizer in the loop: resumed == uninterrupted, paged == unpaged, spikes are answered."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import lorakit
from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base.load import load_base
from lorakit.builtin import data_file
from lorakit.errors import CheckpointError, InputError
from lorakit.optimizers import forms
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.recipe import LoraConfig
from lorakit.train import step as step_module
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.loop import train
from lorakit.train.outcome import TrainOutcome
from lorakit.train.settings import LoopSettings
from tests.train import runs

# Three epochs of two ragged steps.
NUM_EXAMPLES, NUM_STEPS = 7, 6
SETTINGS = LoopSettings(
    num_train_epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    weight_decay=0.1,
    micro_batch_tokens=48,
    loraplus_lr_ratio=4.0,
    seed=5,
    save_steps=1,
    save_total_limit=99,
    worst_batch_first=False,  # has tests of its own; here steps and reads are counted
)
ADAPTER = {
    "r": 64,
    "use_dora": True,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "down_proj"],
}
PAGED = [name for name in forms.names() if forms.form(name).PAGED]


def _settings(optim: str) -> LoopSettings:
    memory = "80KB" if forms.form(optim).PAGED else None
    return replace(SETTINGS, optim=optim, optim_memory=memory)


def _model(folder: Path) -> PreTrainedModel:
    return runs.adapted_model(folder, **ADAPTER)


def _train(
    folder: Path, run_dir: Path | None, settings: LoopSettings, **options
) -> tuple[TrainOutcome, dict[str, torch.Tensor]]:
    model = _model(folder)
    if run_dir is None:
        settings = replace(settings, save_steps=None)
    examples = runs.ragged_examples(NUM_EXAMPLES)
    outcome = train(model, examples, settings, run_dir=run_dir, **options)
    return outcome, runs.values(model)


def _checkpoint(run_dir: Path, step: int = NUM_STEPS) -> dict[str, bytes]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


@pytest.fixture(scope="module", params=forms.names())
def whole_run(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(optimizer, folder of a run with it)."""
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    _train(tiny_folder, run_dir, _settings(request.param))
    return request.param, run_dir


@pytest.mark.parametrize("step", [1, 4])
def test_resumed_is_uninterrupted_bit_for_bit(
    tiny_folder: Path, tmp_path: Path, whole_run: tuple[str, Path], step: int
) -> None:
    optim, whole = whole_run
    resumed = tmp_path / "run"
    shutil.copytree(whole, resumed)
    for later in range(step + 1, NUM_STEPS + 1):
        shutil.rmtree(resumed / "checkpoints" / f"step-{later}")
    _train(tiny_folder, resumed, _settings(optim), resume=True)
    assert _checkpoint(resumed) == _checkpoint(whole)
    lines = [
        runs.logged(list(map(json.loads, (d / "metrics.jsonl").read_text().splitlines())))
        for d in (resumed, whole)
    ]
    assert lines[0] == lines[1]


def test_a_checkpoint_holds_the_state_as_it_is(whole_run: tuple[str, Path]) -> None:
    optim, run_dir = whole_run
    tensors = read_checkpoint(run_dir / "checkpoints" / f"step-{NUM_STEPS}").tensors
    name = "model.layers.0.mlp.down_proj.adapter.lora_A"
    assert tensors["parameters"][name].dtype == torch.float32
    kept = {n.removesuffix(f".{name}"): t for n, t in tensors["optimizer"].items() if name in n}
    if "8bit" not in optim:
        assert {n: t.dtype for n, t in kept.items()} == dict.fromkeys(
            ("exp_avg", "exp_avg_sq"), torch.float32
        )
        return
    assert kept["exp_avg"].dtype == kept["exp_avg_sq"].dtype == torch.uint8
    assert kept["exp_avg"].shape == tensors["parameters"][name].shape == (64, 64)
    assert kept["exp_avg_absmax"].shape == kept["exp_avg_sq_absmax"].shape == (16,)
    assert kept["exp_avg"].unique().numel() > 20


def test_another_optimizer_is_refused_on_resume(
    tiny_folder: Path, tmp_path: Path, whole_run: tuple[str, Path]
) -> None:
    optim, whole = whole_run
    for other in forms.names():
        if other != optim:
            run_dir = tmp_path / other
            shutil.copytree(whole, run_dir)
            with pytest.raises(CheckpointError, match=rf"train\.optim: .*'{optim}'.*'{other}'"):
                _train(tiny_folder, run_dir, _settings(other), resume=True)
    shutil.copytree(whole, tmp_path / "ratio")
    with pytest.raises(CheckpointError, match=r"train\.loraplus_lr_ratio: .*4\.0.*8\.0"):
        settings = replace(_settings(optim), loraplus_lr_ratio=8.0)
        _train(tiny_folder, tmp_path / "ratio", settings, resume=True)


def test_the_memory_of_pages_may_change_on_resume(
    tiny_folder: Path, tmp_path: Path, whole_run: tuple[str, Path]
) -> None:
    optim, whole = whole_run
    if not forms.form(optim).PAGED:
        return
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    for later in range(4, NUM_STEPS + 1):
        shutil.rmtree(run_dir / "checkpoints" / f"step-{later}")
    settings = replace(_settings(optim), optim_memory=None)
    outcome, _ = _train(tiny_folder, run_dir, settings, resume=True)
    # For the three checkpoints alone.
    assert outcome.optimizer["pages_out"] == 3 * outcome.optimizer["pages"]
    assert _checkpoint(run_dir) == _checkpoint(whole)


@pytest.mark.parametrize("optim", PAGED)
def test_a_run_that_outgrows_the_device_gives_state_up_and_goes_on(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    optim: str,
) -> None:
    undisturbed, expected = _train(tiny_folder, None, _settings(optim))
    backward, tries = step_module.backward, []

    def full_at_first(model, adapter, batch, *, seed, recompute=None):
        loss = backward(model, adapter, batch, seed=seed, recompute=recompute)
        tries.append(batch.step)
        if batch.step == 3 and tries.count(3) == 1:
            raise torch.OutOfMemoryError("as full as can be")  # gradients are half there
        return loss

    monkeypatch.setattr(step_module, "backward", full_at_first)
    outcome, values = _train(tiny_folder, None, _settings(optim))
    assert tries == [0, 1, 2, 3, 3, 4, 5]
    assert "step 4 did not fit" in caplog.text
    assert outcome.optimizer["evicted"] > 0 == undisturbed.optimizer["evicted"]
    assert outcome.optimizer["peak_bytes"] <= 80_000
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name
    assert runs.logged(outcome.metrics) == runs.logged(undisturbed.metrics)


@pytest.mark.parametrize("optim", forms.names())
def test_a_device_that_stays_full_ends_the_run(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, optim: str
) -> None:
    def full(model, adapter, batch, *, seed, recompute=None):
        raise torch.OutOfMemoryError("as full as can be")

    monkeypatch.setattr(step_module, "backward", full)
    with pytest.raises(torch.OutOfMemoryError, match="as full as can be"):
        _train(tiny_folder, None, _settings(optim))


def test_what_cannot_work_is_said_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path
) -> None:
    faults = {
        "holds no two pages": {"optim": "paged_adamw_32bit", "optim_memory": "1KB"},
        r"'64 MegaB' is not a size.*train\.optim_memory": {
            "optim": "paged_adamw_8bit",
            "optim_memory": "64 MegaB",
        },
        "loraplus_lr_embedding 0.001 is": {"loraplus_lr_embedding": 1e-3},
        "optimizer 'lion' does not exist": {"optim": "lion"},
    }
    for message, changes in faults.items():
        with pytest.raises(InputError, match=message):
            _train(tiny_folder, tmp_path / "run", replace(SETTINGS, **changes))
    assert not (tmp_path / "run").exists()


def _on_the_builtin_base(**changes) -> tuple[TrainOutcome, dict[str, torch.Tensor]]:
    """A few steps on the first of the demo's rows."""
    model, tokenizer = load_base("builtin", device="cpu")
    attach_adapter(model, LoraConfig(r=16, use_dora=True))
    lines = data_file("builtin:train").read_text("utf-8").splitlines()
    config = {"batch_size": 2, "max_steps": 8, "learning_rate": 2e-3, "max_length": 512} | changes
    rows = [json.loads(line) for line in lines[:40]]
    outcome = lorakit.train_sft(model, tokenizer, rows, lorakit.SFTConfig(**config))
    return outcome, runs.values(model)


@pytest.fixture(scope="module")
def builtin_runs() -> dict[str, tuple[TrainOutcome, dict[str, torch.Tensor]]]:
    """A run with each optimizer that is not paged."""
    return {name: _on_the_builtin_base(optim=name) for name in forms.names() if name not in PAGED}


@pytest.mark.parametrize("optim", PAGED)
def test_a_tenth_of_the_state_is_enough(optim: str, builtin_runs) -> None:
    unpaged = "adamw_8bit" if "8bit" in optim else "adamw_torch"
    expected_outcome, expected = builtin_runs[unpaged]
    memory = int(expected_outcome.optimizer["state_bytes"]) // 10
    outcome, values = _on_the_builtin_base(optim=optim, optim_memory=str(memory))
    facts = outcome.optimizer
    assert facts["state_bytes"] == expected_outcome.optimizer["state_bytes"]
    assert facts["peak_bytes"] <= memory
    # Every step moves nearly all pages in, and all of them out.
    assert facts["pages_out"] == 8 * facts["pages"] >= facts["pages_in"] > 7 * facts["pages"]
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name
    assert runs.logged(outcome.metrics) == runs.logged(expected_outcome.metrics)


def test_the_loss_in_8_bits_follows_float32_s(builtin_runs) -> None:
    (exact, exact_values), (ours, values) = builtin_runs["adamw_torch"], builtin_runs["adamw_8bit"]
    assert ours.optimizer["state_bytes"] <= 0.3 * exact.optimizer["state_bytes"]
    losses = [
        np.array([line["loss"] for line in outcome.metrics])
        for outcome in (exact, ours, _on_the_builtin_base(seed=43)[0])
    ]
    difference, between_seeds = (np.abs(other - losses[0]) for other in losses[1:])
    assert difference[0] == 0 and difference.max() > 0
    assert losses[0][-2:].mean() < losses[0][:2].mean() - 0.5
    assert difference.max() < 5e-3 < between_seeds.min()
    assert any(not torch.equal(value, exact_values[name]) for name, value in values.items())


def test_loraplus_moves_b_further(tiny_folder: Path) -> None:
    outcomes = {}
    for ratio in (None, 16.0):
        settings = replace(
            SETTINGS, loraplus_lr_ratio=ratio, learning_rate=1e-5, max_grad_norm=None, max_steps=1
        )
        start = runs.values(_model(tiny_folder))
        _, values = _train(tiny_folder, None, settings)
        outcomes[ratio] = {n: (values[n] - start[n]).norm().item() for n in values}
    for name, moved in outcomes[16.0].items():
        factor = 1.0 if name.endswith("lora_A") else 16.0
        assert moved == pytest.approx(factor * outcomes[None][name], rel=0.1), name


def test_the_plan_knows_what_the_loop_will_hold(tiny_folder: Path) -> None:
    for optim in forms.names():
        model = _model(tiny_folder)
        settings = _settings(optim)
        planned = state_plan_of(model, attached(model).parameters(), settings, "cpu")
        outcome, _ = _train(tiny_folder, None, settings)
        assert outcome.optimizer["state_bytes"] == planned.layout.state_bytes
        assert outcome.optimizer["peak_bytes"] <= planned.resident_bytes
