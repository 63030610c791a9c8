"""What training says in a log: every line of the metrics, or what no bar shows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from lorakit.train.step_log import StepLog, in_words
from tests.train import runs


def metrics_line(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 1.25,
        "learning_rate": 2e-4,
        "tokens_per_second": 1234.5,
    } | more


def told(*, has_bar: bool, caplog: pytest.LogCaptureFixture) -> list[int]:
    """The steps out of 100 that are told of; step 37 validates."""
    log = StepLog(100, has_bar=has_bar)
    with caplog.at_level(logging.INFO, logger="lorakit"):
        for step in range(1, 101):
            log.tell(metrics_line(step, **({"validation_loss": 1.5} if step == 37 else {})))
    return [int(record.getMessage().split()[1]) for record in caplog.records]


def test_without_a_bar_every_line_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert told(has_bar=False, caplog=caplog) == list(range(1, 101))
    assert "validation loss 1.5000" in caplog.messages[36]


def test_beside_a_bar_only_validations_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert told(has_bar=True, caplog=caplog) == [37]


def test_in_words() -> None:
    assert in_words(metrics_line(20), 114) == (
        "step 20 of 114, epoch 2.00: loss 1.2500, learning rate 2.0e-04, 1,234 tokens/s"
    )


def test_training_says_what_it_does(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = LoopSettings(
        max_steps=7, batch_size=4, micro_batch_tokens=40, eval_steps=3, logging_steps=2
    )
    with caplog.at_level(logging.INFO, logger="lorakit"):
        train(
            runs.adapted_model(tiny_folder),
            runs.ragged_examples(),
            settings,
            validation=runs.ragged_examples(3, seed=9),
        )
    shown = "\n".join(caplog.messages)
    assert "on 11 examples: 7 steps of up to 4 examples" in shown
    steps = [message for message in caplog.messages if message.startswith("step ")]
    told = {message.split(",")[0]: "validation loss" in message for message in steps}
    assert told == {f"step {n} of 7": n in (3, 6, 7) for n in (2, 3, 4, 6, 7)}
