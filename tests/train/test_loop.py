"""The loop: law 5 (resumed == uninterrupted), faults that stop a run, signals, early stopping."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base.load import load_base
from lorakit.data.examples import Example, examples_in_memory
from lorakit.errors import (
    AdapterError,
    CheckpointError,
    DataError,
    InputError,
    InterruptionError,
    ModelError,
    NonFiniteError,
    RunError,
)
from lorakit.recipe import LoraConfig
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.identity import frozen_weights_hash
from lorakit.train.loop import train
from lorakit.train.outcome import TrainOutcome
from lorakit.train.settings import LoopSettings
from tests import tiny
from tests.train import runs

# Three epochs of three ragged steps: 4, 4 and 3 examples.
NUM_EXAMPLES, NUM_STEPS = 11, 9
SETTINGS = LoopSettings(
    num_train_epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    weight_decay=0.1,
    micro_batch_tokens=48,
    seed=5,
    worst_batch_first=False,  # has tests of its own; here steps and reads are counted
)
ADAPTER = {
    "use_dora": True,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
}


def _train(folder: Path, run_dir: Path | None, settings: LoopSettings, **kwargs) -> TrainOutcome:
    model = kwargs.pop("model", None) or runs.adapted_model(folder, **ADAPTER)
    examples = kwargs.pop("examples", None) or runs.ragged_examples(NUM_EXAMPLES)
    return train(model, examples, settings, run_dir=run_dir, **kwargs)


def _final(run_dir: Path, step: int = NUM_STEPS) -> dict[str, bytes]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def _metrics(run_dir: Path) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return runs.logged([json.loads(line) for line in lines])


@pytest.mark.parametrize("packing", [True, False])
def test_resumed_from_any_step_is_the_uninterrupted_run(
    tiny_folder: Path, tmp_path: Path, packing: bool
) -> None:
    settings = replace(
        SETTINGS, packing=packing, save_steps=1, save_total_limit=99, logging_steps=2
    )
    validation = runs.ragged_examples(3, seed=9)
    whole = tmp_path / "whole"
    outcome = _train(tiny_folder, whole, settings, validation=validation)
    assert outcome.steps == NUM_STEPS and len(_final(whole)) == 2
    for step in range(1, NUM_STEPS + 1):
        resumed = tmp_path / f"from-{step}"
        shutil.copytree(whole, resumed)
        for later in range(step + 1, NUM_STEPS + 1):
            shutil.rmtree(resumed / "checkpoints" / f"step-{later}")
        model = runs.adapted_model(tiny_folder, **ADAPTER)
        again = _train(
            tiny_folder, resumed, settings, model=model, validation=validation, resume=True
        )
        assert _final(resumed) == _final(whole), f"resumed from step {step}"
        assert _metrics(resumed) == _metrics(whole), f"resumed from step {step}"
        assert runs.logged(again.metrics) == runs.logged(outcome.metrics)
        stored = read_checkpoint(whole / "checkpoints" / f"step-{NUM_STEPS}").tensors["parameters"]
        for name, value in runs.values(model).items():
            assert torch.equal(value, stored[name])


def test_the_speed_of_every_line_is_its_own_tokens_in_its_own_seconds(
    tiny_folder: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, save_steps=1, save_total_limit=99, logging_steps=3)
    _train(tiny_folder, tmp_path, settings)
    for later in range(6, NUM_STEPS + 1):  # the last one left, 5, lies between two lines
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{later}")
    lines = _train(tiny_folder, tmp_path, settings, resume=True).metrics
    assert [line["step"] for line in lines] == [3, 6, 9]
    before = {"tokens": 0, "seconds": 0.0}
    for line in lines:
        tokens, seconds = line["tokens"] - before["tokens"], line["seconds"] - before["seconds"]
        assert line["tokens_per_second"] == pytest.approx(tokens / seconds)
        before = line


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_runs_are_the_same_bits(tiny_folder: Path, tmp_path: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in ("one", "two"):
            _train(tiny_folder, tmp_path / name, SETTINGS)
    finally:
        torch.set_num_threads(before)
    assert _final(tmp_path / "one") == _final(tmp_path / "two")
    assert _metrics(tmp_path / "one") == _metrics(tmp_path / "two")


def test_a_line_has_exactly_the_promised_keys(tiny_folder: Path, tmp_path: Path) -> None:
    _train(tiny_folder, tmp_path, replace(SETTINGS, max_steps=2))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    examples = runs.ragged_examples(NUM_EXAMPLES)
    keys = "step epoch loss learning_rate grad_norm tokens trained_tokens tokens_per_second"
    for line in lines:
        assert list(line) == [*keys.split(), "peak_bytes", "seconds"]
    assert lines[1]["step"] == 2 and lines[1]["epoch"] == pytest.approx(2 / 3)
    assert lines[0]["tokens"] < lines[1]["tokens"] < examples.lengths.sum()
    assert lines[1]["trained_tokens"] < lines[1]["tokens"]
    assert lines[1]["peak_bytes"] > 0 and lines[1]["tokens_per_second"] > 0


def test_the_loss_of_a_line_is_the_mean_over_its_steps_tokens(
    tiny_folder: Path, tmp_path: Path
) -> None:
    every = _train(tiny_folder, None, SETTINGS).metrics
    thirds = _train(tiny_folder, None, replace(SETTINGS, logging_steps=3)).metrics
    assert [line["step"] for line in thirds] == [3, 6, 9]
    seen = [0] + [line["trained_tokens"] for line in every]
    total = sum(every[i]["loss"] * (seen[i + 1] - seen[i]) for i in range(3))
    expected = total / seen[3]
    assert thirds[0]["loss"] == pytest.approx(expected, rel=1e-6)


def _poison(model, name: str) -> None:
    stored = attached(model).modules[name].base_layer.stored
    next(iter(stored.tensors().values())).data.fill_(float("nan"))


def test_a_nan_in_a_weight_is_named_and_stops_the_run(tiny_folder: Path, tmp_path: Path) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    before = runs.values(model)
    _poison(model, "model.layers.1.self_attn.v_proj")
    with pytest.raises(NonFiniteError, match=r"first in the output of model\.layers\.1\.self_attn"):
        _train(tiny_folder, tmp_path, SETTINGS, model=model)
    for name, value in runs.values(model).items():
        assert torch.equal(value, before[name]), name
        assert attached(model).parameters()[name].grad is None
    assert not list((tmp_path / "checkpoints").glob("step-*"))
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("bad_step", [3, 4, 5])
def test_a_nan_in_mid_run_leaves_the_weights_and_the_last_checkpoint(
    tiny_folder: Path, tmp_path: Path, bad_step: int
) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    last_read_before = [4, 8, 11, 15, 19][bad_step - 1]

    def on_read(reads: int) -> None:
        if reads == last_read_before + 1:
            _poison(model, "model.layers.0.mlp.down_proj")

    examples = runs.Watched(runs.ragged_examples(NUM_EXAMPLES), on_read)
    settings = replace(SETTINGS, save_steps=1)
    with pytest.raises(
        NonFiniteError, match=rf"step {bad_step + 1} gave.*0\.mlp\.down_proj"
    ) as caught:
        _train(tiny_folder, tmp_path, settings, model=model, examples=examples)
    assert caught.value.exit_code == 1 and f"step-{bad_step}" in str(caught.value)
    last = read_checkpoint(tmp_path / "checkpoints" / f"step-{bad_step}")
    for name, value in runs.values(model).items():
        assert torch.equal(value, last.tensors["parameters"][name]), name
    assert [line["step"] for line in _metrics(tmp_path)] == list(range(1, bad_step + 1))


def test_a_gradient_that_overflows_is_named(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    before = runs.values(model)
    name = "model.layers.1.mlp.down_proj.adapter.lora_B"
    attached(model).parameters()[name].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match=rf"first in the gradient of {name}"):
        _train(tiny_folder, None, SETTINGS, model=model)
    for name, value in runs.values(model).items():
        assert torch.equal(value, before[name]), name


def test_a_step_after_the_bad_one_changes_nothing_either(tiny_folder: Path) -> None:
    # The host learns of a bad step when the next one is queued already.
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    reference = runs.adapted_model(tiny_folder, **ADAPTER)
    parameter = attached(model).parameters()["model.layers.1.mlp.down_proj.adapter.lora_A"]
    calls = []

    def spoil_the_second_step(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return gradient * float("nan") if len(calls) == 2 else gradient

    parameter.register_hook(spoil_the_second_step)
    settings = replace(SETTINGS, max_steps=8, micro_batch_tokens=4096, warmup_steps=0)
    with pytest.raises(NonFiniteError, match="step 2 gave"):
        _train(tiny_folder, None, settings, model=model)
    assert len(calls) >= 3
    # Cosine and constant agree at step 0.
    one_step = replace(settings, max_steps=1, lr_scheduler_type="constant")
    _train(tiny_folder, None, one_step, model=reference)
    for name, value in runs.values(model).items():
        assert torch.equal(value, runs.values(reference)[name]), name


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_at_the_step_boundary_and_the_run_goes_on_later(
    tiny_folder: Path, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    whole = _train(tiny_folder, tmp_path / "whole", SETTINGS)

    def on_read(reads: int) -> None:
        if reads == 15:
            os.kill(os.getpid(), number)

    watched = runs.Watched(runs.ragged_examples(NUM_EXAMPLES), on_read)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(
        InterruptionError, match=rf"{number.name} after step 4 of 9; saved"
    ) as caught:
        _train(tiny_folder, tmp_path / "run", SETTINGS, examples=watched)
    assert caught.value.exit_code == exit_code
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed = _train(tiny_folder, tmp_path / "run", SETTINGS, resume=True)
    assert _final(tmp_path / "run") == _final(tmp_path / "whole")
    assert runs.logged(resumed.metrics) == runs.logged(whole.metrics)


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_in_a_validation_is_not_kept_waiting_and_loses_nothing(
    tiny_folder: Path, tmp_path: Path, last: bool
) -> None:
    settings = replace(
        SETTINGS, eval_steps=1, max_steps=2 if last else 4, early_stopping_patience=3
    )
    held_out = runs.ragged_examples(20, seed=3)
    whole_model = runs.adapted_model(tiny_folder, **ADAPTER)
    whole = _train(
        tiny_folder, tmp_path / "whole", settings, model=whole_model, validation=held_out
    )
    reads = []

    def on_read(read: int) -> None:
        reads.append(read)
        if read == 22:  # in the second validation
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptionError, match=r"after step 2 of .*; saved .*step-2"):
        _train(tiny_folder, tmp_path / "run", settings, validation=runs.Watched(held_out, on_read))
    assert len(reads) < 35  # one micro-batch of the second validation, not all 20 examples
    assert [line["step"] for line in _metrics(tmp_path / "run")] == [1]

    def again(read: int) -> None:
        if read == 2:  # while the resumed run catches up
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptionError, match=r"after step 2 of .*; saved .*step-2"):
        _train(
            tiny_folder,
            tmp_path / "run",
            settings,
            validation=runs.Watched(held_out, again),
            resume=True,
        )
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    resumed = _train(
        tiny_folder, tmp_path / "run", settings, model=model, validation=held_out, resume=True
    )
    assert runs.logged(resumed.metrics) == runs.logged(whole.metrics)
    assert _metrics(tmp_path / "run") == _metrics(tmp_path / "whole")
    assert (resumed.best_step, resumed.validation_loss) == (whole.best_step, whole.validation_loss)
    for name, value in runs.values(model).items():
        assert torch.equal(value, runs.values(whole_model)[name]), name


@pytest.mark.parametrize("patience", [None, 2])
def test_a_validation_that_is_not_finite_is_named_and_never_the_best(
    tiny_folder: Path, tmp_path: Path, patience: int | None
) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    model.get_input_embeddings().weight.data[399] = float("nan")
    weights = np.array([0, 1, 1], np.float32)
    held_out = examples_in_memory(
        [Example(np.array(ids, np.int32), weights) for ids in ([5, 6, 7], [5, 399, 7])]
    )
    settings = replace(SETTINGS, eval_steps=1, save_steps=1, early_stopping_patience=patience)
    with pytest.raises(NonFiniteError, match=r"after step 1 gave .* first in validation example 1"):
        _train(tiny_folder, tmp_path, settings, model=model, validation=held_out)
    assert _metrics(tmp_path) == []
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_crash_before_the_first_checkpoint_starts_over(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _train(tiny_folder, tmp_path / "whole", SETTINGS)

    def crash(reads: int) -> None:
        if reads == 10:
            raise OSError("as good as a crash")

    watched = runs.Watched(runs.ragged_examples(NUM_EXAMPLES), crash)
    with pytest.raises(OSError, match="as good as"):
        _train(tiny_folder, tmp_path / "run", SETTINGS, examples=watched)
    with caplog.at_level(logging.WARNING):
        _train(tiny_folder, tmp_path / "run", SETTINGS, resume=True)
    assert "no checkpoint yet: starting over" in caplog.text
    assert _final(tmp_path / "run") == _final(tmp_path / "whole")
    assert _metrics(tmp_path / "run") == _metrics(tmp_path / "whole")


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(
    tiny_folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    settings = replace(SETTINGS, save_steps=1)
    _train(tiny_folder, tmp_path / "whole", settings)

    def fill(reads: int) -> None:
        # Again and again: the reserve lets the first save through.
        if reads >= 15:
            with (small_disk / "filler").open("ab") as filler:
                filler.write(bytes(shutil.disk_usage(small_disk).free))

    examples = runs.Watched(runs.ragged_examples(NUM_EXAMPLES), fill)
    with pytest.raises(RunError, match=r"No space left on device.*resume") as caught:
        _train(tiny_folder, small_disk / "run", settings, examples=examples)
    assert caught.value.exit_code == 1
    (small_disk / "filler").unlink()
    _train(tiny_folder, small_disk / "run", settings, resume=True)
    assert _final(small_disk / "run") == _final(tmp_path / "whole")
    assert _metrics(small_disk / "run") == _metrics(tmp_path / "whole")


@pytest.mark.parametrize("interrupted", [False, True])
def test_early_stopping_keeps_the_best_weights(
    tiny_folder: Path, tmp_path: Path, interrupted: bool
) -> None:
    # A learning rate that first helps and then ruins; validated after every step.
    settings = replace(
        SETTINGS,
        learning_rate=0.5,
        lr_scheduler_type="constant",
        max_grad_norm=None,
        num_train_epochs=20,
        eval_steps=1,
        save_steps=1,
        save_total_limit=99,
        early_stopping_patience=3,
    )
    validation = runs.ragged_examples(3, seed=9)
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    outcome = _train(tiny_folder, tmp_path / "a", settings, model=model, validation=validation)
    losses = {line["step"]: line["validation_loss"] for line in outcome.metrics}
    best = min(losses, key=losses.__getitem__)
    assert outcome.stopped == "early stopping" and outcome.steps == best + 3 < 60
    assert outcome.best_step == best and outcome.validation_loss == losses[best]
    at_best = read_checkpoint(tmp_path / "a" / "checkpoints" / f"step-{best}")
    for name, value in runs.values(model).items():
        assert torch.equal(value, at_best.tensors["parameters"][name]), name
    if interrupted:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        for step in range(best + 2, outcome.steps + 1):
            shutil.rmtree(tmp_path / "b" / "checkpoints" / f"step-{step}")
        model = runs.adapted_model(tiny_folder, **ADAPTER)
    again = _train(
        tiny_folder,
        tmp_path / ("b" if interrupted else "a"),
        settings,
        model=model,
        validation=validation,
        resume=True,
    )
    assert runs.logged(again.metrics) == runs.logged(outcome.metrics)
    assert (again.stopped, again.steps) == (outcome.stopped, outcome.steps)
    for name, value in runs.values(model).items():
        assert torch.equal(value, at_best.tensors["parameters"][name]), name


OTHER_RUNS = {
    "train.learning_rate": {"settings": replace(SETTINGS, learning_rate=1e-3)},
    "train.seed": {"settings": replace(SETTINGS, seed=6)},
    "train.batch_size": {"settings": replace(SETTINGS, batch_size=3)},
    "data.train": {"examples": runs.ragged_examples(NUM_EXAMPLES, seed=1)},
    "data.validation": {"validation": runs.ragged_examples(2, seed=1)},
    "adapter.r": {"adapter": {"r": 8}},
    "adapter.lora_dropout": {"adapter": {"lora_dropout": 0.2}},
    "base.config": {"folder": {"rope_theta": 5000.0}},
    "base.weights": {"folder": {"seed": 1}},
    "micro_batch_tokens": {"settings": replace(SETTINGS, micro_batch_tokens=50)},
    "packing": {"settings": replace(SETTINGS, packing=False)},
    "gradient_checkpointing": {"settings": replace(SETTINGS, gradient_checkpointing=True)},
}


@pytest.fixture(scope="module")
def stopped_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    _train(tiny_folder, run_dir, SETTINGS)
    shutil.rmtree(run_dir / "checkpoints" / "step-9")
    return run_dir


@pytest.mark.parametrize("field", OTHER_RUNS)
def test_another_run_s_checkpoint_is_refused_by_the_field_that_differs(
    tiny_folder: Path, stopped_run: Path, tmp_path: Path, field: str
) -> None:
    other = dict(OTHER_RUNS[field])
    settings = other.pop("settings", SETTINGS)
    folder = tiny_folder
    if "folder" in other:
        folder = tiny.folder(tmp_path / "base", **other.pop("folder"))
    model = runs.adapted_model(folder, **(ADAPTER | other.pop("adapter", {})))
    shutil.copytree(stopped_run, tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match=field.replace(".", r"\.")) as caught:
        _train(folder, tmp_path / "run", settings, model=model, resume=True, **other)
    assert str(caught.value).count("now it is") + str(caught.value).count("this run has") == 1
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == before
    assert [line["step"] for line in _metrics(tmp_path / "run")] == list(range(1, 10))


def test_what_does_not_train_may_change_on_resume(
    tiny_folder: Path, stopped_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped_run, tmp_path / "renamed")
    settings = replace(
        SETTINGS, logging_steps=3, save_steps=2, save_total_limit=2, micro_batch_tokens=None
    )
    outcome = _train(tiny_folder, tmp_path / "renamed", settings, resume=True)
    assert outcome.choices.micro_batch_tokens == 48  # replayed
    whole = tmp_path / "whole"
    _train(tiny_folder, whole, SETTINGS)
    assert _final(tmp_path / "renamed") == _final(whole)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_base_is_the_same_wherever_it_lies(
    tmp_path: Path, model_type: str, quantization: str
) -> None:
    folder = tiny.folder(tmp_path, model_type)
    hashes = []
    for options in ({}, {"offload": "cpu", "max_device_memory": 120_000}):
        model, _ = load_base(folder, device="cpu", quantization=quantization, **options)
        attach_adapter(model, LoraConfig(r=2))
        hashes.append(frozen_weights_hash(model))
    assert hashes[0] == hashes[1]


def test_a_base_whose_inner_values_differ_is_another(tiny_folder: Path) -> None:
    model, _ = load_base(tiny_folder, device="cpu")
    before = frozen_weights_hash(model)
    for weight in (model.get_input_embeddings().weight, model.model.layers[1].mlp.up_proj.weight):
        kept = weight.detach().clone()
        weight.data[1:-1] += 1
        assert frozen_weights_hash(model) != before
        weight.data.copy_(kept)
    assert frozen_weights_hash(model) == before


def test_threads_of_the_run_are_replayed_and_given_back(
    tiny_folder: Path, stopped_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(stopped_run, tmp_path / "run")
    started_with = json.loads((stopped_run / "choices.json").read_text())["num_threads"]
    before = torch.get_num_threads()
    torch.set_num_threads(started_with + 1)
    try:
        with caplog.at_level(logging.WARNING):
            _train(tiny_folder, tmp_path / "run", SETTINGS, resume=True)
        assert torch.get_num_threads() == started_with + 1
    finally:
        torch.set_num_threads(before)
    assert f"computing with {started_with} CPU threads" in caplog.text


def test_wrong_use_is_said_before_anything_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    model, _ = load_base(tiny_folder, device="cpu")
    with pytest.raises(AdapterError, match="no adapter"):
        _train(tiny_folder, tmp_path / "run", SETTINGS, model=model)
    with pytest.raises(InputError, match=r"early_stopping_patience needs .*; eval_steps needs "):
        settings = replace(SETTINGS, early_stopping_patience=2, eval_steps=1)
        _train(tiny_folder, tmp_path / "run", settings)
    with pytest.raises(InputError, match=r"save_steps needs .*; resuming needs "):
        _train(tiny_folder, None, replace(SETTINGS, save_steps=1), resume=True)
    with pytest.raises(CheckpointError, match="does not exist"):
        _train(tiny_folder, tmp_path / "run", SETTINGS, resume=True)
    with pytest.raises(InputError, match=r"rank 1 of 2, torch\.distributed says None"):
        _train(tiny_folder, tmp_path / "run", SETTINGS, rank=1, world_size=2)
    assert not (tmp_path / "run").exists()


def test_a_float16_base_is_refused_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model, _ = load_base(tiny_folder, device="cpu", dtype=torch.float16)
    attach_adapter(model, LoraConfig(r=2))
    with pytest.raises(ModelError, match=r"float16.*bfloat16 and float32"):
        _train(tiny_folder, tmp_path / "run", SETTINGS, model=model)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train", "validation"])
def test_ids_outside_the_vocabulary_are_refused_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    num_rows = len(model.get_input_embeddings().weight)
    weights = np.array([0, 1, 1], np.float32)
    fits, outside = (
        examples_in_memory(
            [Example(np.array(ids, np.int32), weights) for ids in ([5, 6, 7], [5, last, 7])]
        )
        for last in (num_rows - 1, num_rows)
    )
    train_set, held_out = (outside, fits) if name == "train" else (fits, outside)
    with pytest.raises(DataError, match=rf"{name}: example 1 has .*{num_rows}, .* {num_rows} rows"):
        _train(
            tiny_folder,
            tmp_path / "run",
            SETTINGS,
            model=model,
            examples=train_set,
            validation=held_out,
        )
    assert not (tmp_path / "run").exists()
    _train(
        tiny_folder,
        None,
        replace(SETTINGS, max_steps=1),
        model=model,
        examples=fits,
        validation=fits,
    )


def test_weights_that_leave_an_epoch_empty_are_refused_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="less than one"):
        _train(
            tiny_folder,
            tmp_path / "run",
            SETTINGS,
            examples=runs.ragged_examples(1),
            repeats=np.array([0.3]),
        )
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_the_same_folder_is_refused(
    tiny_folder: Path, stopped_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped_run, tmp_path / "run")
    with pytest.raises(InputError, match="last: step 6"):
        _train(tiny_folder, tmp_path / "run", SETTINGS)
    assert len(_metrics(tmp_path / "run")) == 9


def test_a_base_that_drops_is_refused(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    model.model.layers[1].mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.1))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.act_fn\.1 \(p=0\.1\)"):
        _train(tiny_folder, None, SETTINGS, model=model)
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    model.config.attention_dropout = 0.2
    with pytest.raises(ModelError, match=r"config\.attention_dropout=0\.2"):
        _train(tiny_folder, None, SETTINGS, model=model)


def test_a_tensor_that_gets_no_gradient_is_named(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    layer = attached(model).modules["model.layers.0.self_attn.q_proj"]
    layer.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(
        AdapterError, match=r"3 of 18 trained .*layers\.0\.self_attn\.q_proj"
    ) as caught:
        _train(tiny_folder, None, SETTINGS, model=model)
    assert "k_proj" not in str(caught.value)


def test_the_model_comes_back_in_the_mode_it_was_in(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder, **ADAPTER)
    model.model.layers[0].train()
    modes = {name: module.training for name, module in model.named_modules()}
    _train(tiny_folder, None, replace(SETTINGS, gradient_checkpointing=True), model=model)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert attached(model).dropout.rows is None and not attached(model).norm_cache.allowed
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_replayed_threads_compute_the_same_bits(tmp_path: Path) -> None:
    # Large enough for the matrix products to be shared among threads.
    folder = tiny.folder(tmp_path / "base", hidden_size=256, intermediate_size=688)
    examples = runs.ragged_examples(20, longest=200)
    settings = replace(SETTINGS, num_train_epochs=2, micro_batch_tokens=600, save_steps=1)

    def crash(reads: int) -> None:
        if reads == 25:
            raise OSError("as good as a crash")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _train(folder, tmp_path / "whole", settings, examples=examples)
        with pytest.raises(OSError, match="as good as"):
            _train(folder, tmp_path / "run", settings, examples=runs.Watched(examples, crash))
        torch.set_num_threads(1)
        _train(folder, tmp_path / "run", settings, examples=examples, resume=True)
    finally:
        torch.set_num_threads(before)
    last = max(int(p.name[5:]) for p in (tmp_path / "whole" / "checkpoints").glob("step-*"))
    assert last == 10
    assert _final(tmp_path / "run", last) == _final(tmp_path / "whole", last)
