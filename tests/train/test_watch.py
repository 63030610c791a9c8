"""A loss that does not fall in the first steps is told once, whatever the warm-up."""

from __future__ import annotations

import math

import pytest

from lorakit.train.schedule import Schedule
from lorakit.train.watch import judged_at, stalled


def lines(loss_at, *, num_steps: int = 400, warmup: int = 20, every: int = 1):
    """(steps, losses, rates) as metrics.jsonl has them."""
    schedule = Schedule("cosine", 2e-4, num_steps, warmup)
    steps = list(range(every, num_steps + 1, every))
    losses = [sum(loss_at(s) for s in range(end - every, end)) / every for end in steps]
    return steps, losses, [schedule.learning_rate(end - 1) for end in steps]


def falling(step: int) -> float:
    return 1 + math.exp(-step / 60) + 0.05 * math.sin(step)


def flat(step: int) -> float:
    return 2 + 0.05 * math.sin(step)


@pytest.mark.parametrize("every", [1, 5, 20, 25])
@pytest.mark.parametrize("warmup", [0, 20, 60])
def test_only_a_loss_that_does_not_fall_is_told(every: int, warmup: int) -> None:
    assert stalled(*lines(falling, warmup=warmup, every=every)) is None
    told = stalled(*lines(flat, warmup=warmup, every=every))
    assert told is not None
    assert told.step >= max(50, 2 * warmup)
    assert told.learning_rate == pytest.approx(2e-4, rel=0.2)
    assert f"first {told.step} steps" in told.saw() and "to 0.0001" in told.do()


def test_it_is_told_at_one_line_and_not_before() -> None:
    steps, losses, rates = lines(flat)
    judged = judged_at(steps, rates)
    assert judged is not None
    assert stalled(steps[:judged], losses[:judged], rates[:judged]) is None
    for end in (judged + 1, judged + 30, len(steps)):
        assert judged_at(steps[:end], rates[:end]) == judged
        assert stalled(steps[:end], losses[:end], rates[:end]) == stalled(steps, losses, rates)


def test_a_low_rate_is_not_lowered_further() -> None:
    steps, losses, rates = lines(flat)
    told = stalled(steps, losses, [rate / 10 for rate in rates])
    assert told is not None and "already" in told.do()
