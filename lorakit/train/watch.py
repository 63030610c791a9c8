"""Whether the loss falls at all: seen after some fifty steps, while little is lost yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WATCHED_STEPS = 50
# Falls by less are no fall: within them lies what another order of the data changes.
FALL = 0.005
LOWER_RATE = 1e-4


@dataclass(frozen=True)
class Stalled:
    """The loss did not fall.

    Attributes:
        step: at which that was seen.
        first, last: mean loss over the first and the last third of the steps until then.
        learning_rate: the highest until then.
    """

    step: int
    first: float
    last: float
    learning_rate: float

    def saw(self) -> str:
        """In words."""
        return (
            f"the loss did not fall in the first {self.step} steps "
            f"({self.first:.4f} to {self.last:.4f})"
        )

    def do(self) -> str:
        """What to try."""
        if self.learning_rate > LOWER_RATE:
            return (
                f"lower train.learning_rate (now {self.learning_rate:.2g}) to {LOWER_RATE:g}, "
                "and see "
                "with `lorakit check --show 3` that the right tokens are trained"
            )
        return (
            "see with `lorakit check --show 3` that the right tokens are trained; the learning "
            "rate "
            f"is {self.learning_rate:.2g} already"
        )


def judged_at(steps: Sequence[int], rates: Sequence[float]) -> int | None:
    """Which metrics line tells whether the loss falls; None while none does.

    The first from WATCHED_STEPS on at which the warm-up was over for as long as it lasted.

    Args:
        steps, rates: of the lines so far, in order.
    """
    peak = 0
    for i in range(1, len(steps)):
        if rates[i] > rates[peak]:
            peak = i
        elif steps[i] >= max(WATCHED_STEPS, 2 * steps[peak]) and i >= 2:
            return i
    return None


def stalled(
    steps: Sequence[int], losses: Sequence[float], rates: Sequence[float]
) -> Stalled | None:
    """What to say of the first steps, or None: the loss falls, or it is too early to tell.

    Args:
        steps, losses, rates: of the metrics lines, in order; a loss is the mean since the line
            before.
    """
    line = judged_at(steps, rates)
    if line is None:
        return None
    ends = np.array(steps[: line + 1])
    seen = np.array(losses[: line + 1])
    covered = np.diff(ends, prepend=0)  # steps behind each loss
    early, late = ends <= ends[-1] / 3, ends > ends[-1] * 2 / 3
    early[0] = True
    first = float(np.average(seen[early], weights=covered[early]))
    last = float(np.average(seen[late], weights=covered[late]))
    if last < first * (1 - FALL):
        return None
    return Stalled(int(ends[-1]), first, last, float(max(rates[: line + 1])))
