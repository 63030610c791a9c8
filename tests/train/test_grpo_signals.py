"""A signal in the midst of a generation: the run stops soon, and goes on to the same end."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lorakit.errors import InterruptionError
from lorakit.train.policy_steps import PolicySteps
from lorakit.train.rewards import Reward
from tests.train.grpo_runs import (
    CYCLES,
    STEPS_PER_CYCLE,
    adapted,
    assert_same_run,
    logged,
    newest,
    run,
)

# Hangs where a file is there, and says so.
SLOW = """
import os, time
from pathlib import Path

def slow(completions, flag, **_):
    flag = Path(flag)
    if flag.exists():
        flag.with_name("asked.part").write_text(str(os.getpid()))
        flag.with_name("asked.part").rename(flag.with_name("asked"))
        time.sleep(600)
    return [float(len(text) % 3) for text in completions]
"""
SOON = 60.0  # seconds, of which the run needs one; the function would take ten minutes


def test_a_signal_ends_a_reward_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SLOW)
    flag, asked = tmp_path / "flag", tmp_path / "asked"
    own = Reward(f"{tmp_path}/own.py:slow", options={"flag": str(flag)})
    grpo = dataclasses.replace(CYCLES, rewards=(Reward("regex"), own), reward_seconds=600.0)
    whole = run(adapted(), grpo, run_dir=tmp_path / "whole", max_steps=1)

    flag.touch()
    sent: list[float] = []

    def send() -> None:
        while not asked.exists():
            time.sleep(0.02)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(
        InterruptionError, match=r"SIGTERM after step 0 of 1; saved .*, with the completions that"
    ):
        run(adapted(), grpo, run_dir=tmp_path / "run", max_steps=1)
    assert time.monotonic() - sent[0] < SOON
    thread.join()
    assert not Path(f"/proc/{asked.read_text()}").exists()
    # What the other reward gave is kept; the one that was asked for is asked for again.
    kept = newest(tmp_path / "run").tensors["rollouts"]["scored"]
    assert kept.all(dim=0).tolist() == [True, False]
    flag.unlink()
    outcome = run(adapted(), grpo, run_dir=tmp_path / "run", max_steps=1, resume=True)
    assert logged(outcome.metrics) == logged(whole.metrics)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_signal_while_it_looks_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two passes for the base's log-probabilities, or for those before the steps."""
    options = {"max_steps": STEPS_PER_CYCLE, "save_steps": 99}
    whole = run(adapted(), run_dir=tmp_path / "whole", **options)
    plain = PolicySteps.logprobs
    for number in (1, 2):
        calls = 0

        def interrupted(*arguments, number=number, **passed):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*arguments, **passed)

        monkeypatch.setattr(PolicySteps, "logprobs", interrupted)
        folder = tmp_path / str(number)
        with pytest.raises(InterruptionError, match=r"step 0 of 4; saved .* that were there"):
            run(adapted(), run_dir=folder, **options)
        monkeypatch.undo()
        assert calls == number
        saved = newest(folder)
        assert saved.step == 0 and saved.tensors["rollouts"]["scored"].all()
        assert ("ref_logprobs" in saved.tensors["rollouts"]) == (number == 2)
        outcome = run(adapted(), run_dir=folder, resume=True, **options)
        assert logged(outcome.metrics) == logged(whole.metrics)
        assert_same_run(folder, tmp_path / "whole")
