"""The run folder: what stops a run says how it goes on, wherever that is of any use."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import pytest

from lorakit.cli import main
from lorakit.cli import train as train_verb
from lorakit.errors import CheckpointError, InputError, InterruptionError, NonFiniteError, RunError
from lorakit.run_folder import RunFolder, naming_resumption, resume_command

STOPS = {  # error: whether the same again would end otherwise
    "signal": (InterruptionError("stopped by SIGTERM.", 15), True),
    "reward": (RunError("reward 'own.py:f' raised ValueError."), True),
    "another run": (CheckpointError("belongs to another run."), False),
    "no number": (NonFiniteError("the loss is NaN."), False),
    "input": (InputError("cannot work."), False),
}


@pytest.mark.parametrize("stage", ["", "warm_start", None])
@pytest.mark.parametrize("name", STOPS)
def test_what_stops_a_run_names_the_command(
    name: str,
    stage: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error, is_of_use = STOPS[name]
    run = RunFolder(tmp_path / "a run")
    run.path.mkdir()
    if stage is not None:
        (run.path / stage / "checkpoints" / "step-2").mkdir(parents=True)

    def stopped(*_: object, **__: object) -> None:
        with naming_resumption(run):
            raise type(error)(*error.args, *([15] if name == "signal" else []))

    monkeypatch.setattr(importlib.import_module("lorakit.finetune"), "finetune", stopped)
    monkeypatch.setattr(train_verb, "load_recipe", lambda *_: None)
    assert main(["train", "recipe.yaml"]) == error.exit_code
    told = capsys.readouterr().err
    assert str(error) in told
    assert ("--resume` goes on with it." in told) == (is_of_use and stage is not None)
    if "--resume" in told:
        assert resume_command(run) in told
        words = shlex.split(resume_command(run))
        assert words[2:] == [str(run.recipe), "--output", str(run.path), "--resume"]
