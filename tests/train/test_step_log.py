"""What training says in a log: enough to see that it lives, never a line per step."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from lorakit.train.step_log import SECONDS_BETWEEN_LINES, StepLog, in_words
from tests.train import runs


def metrics_line(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 1.25,
        "learning_rate": 2e-4,
        "tokens_per_second": 1234.5,
    } | more


def told(seconds_per_step: float, *, has_bar: bool, caplog: pytest.LogCaptureFixture) -> list[int]:
    """The steps out of 100 that are told of; step 37 validates."""
    now = 0.0
    log = StepLog(100, has_bar=has_bar, clock=lambda: now)
    with caplog.at_level(logging.INFO, logger="lorakit"):
        for step in range(1, 101):
            now += seconds_per_step
            log.tell(metrics_line(step, **({"validation_loss": 1.5} if step == 37 else {})))
    return [int(record.getMessage().split()[1]) for record in caplog.records]


def test_a_fast_run_tells_first_validation_and_last(caplog: pytest.LogCaptureFixture) -> None:
    assert told(0.01, has_bar=False, caplog=caplog) == [1, 37, 100]
    assert "validation loss 1.5000" in caplog.messages[1]


def test_lines_keep_their_distance(caplog: pytest.LogCaptureFixture) -> None:
    steps = told(3.0, has_bar=False, caplog=caplog)
    assert steps[:2] == [1, 5] and 37 in steps and steps[-1] == 100
    free = [step for step in steps if step not in (37, 100)]
    gaps = [(later - step) * 3.0 for step, later in pairwise(free)]
    assert min(gaps) >= SECONDS_BETWEEN_LINES


def test_a_slow_run_tells_every_step(caplog: pytest.LogCaptureFixture) -> None:
    assert told(11.0, has_bar=False, caplog=caplog) == list(range(1, 101))


def test_beside_a_bar_only_validations_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert told(11.0, has_bar=True, caplog=caplog) == [37]


def test_in_words() -> None:
    assert in_words(metrics_line(20), 114) == (
        "step 20 of 114, epoch 2.00: loss 1.2500, learning rate 2.0e-04, 1,234 tokens/s"
    )


def test_training_says_what_it_does(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = LoopSettings(max_steps=3, batch_size=4, micro_batch_tokens=40, eval_steps=2)
    with caplog.at_level(logging.INFO, logger="lorakit"):
        train(
            runs.adapted_model(tiny_folder),
            runs.ragged_examples(),
            settings,
            validation=runs.ragged_examples(3, seed=9),
        )
    shown = "\n".join(caplog.messages)
    assert "on 11 examples: 3 steps of up to 4 examples" in shown
    steps = [message for message in caplog.messages if message.startswith("step ")]
    assert [message.split(",")[0] for message in steps] == [f"step {n} of 3" for n in (1, 2, 3)]
    assert ["validation loss" in message for message in steps] == [False, True, True]
