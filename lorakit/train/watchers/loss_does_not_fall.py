"""The loss does not fall: seen after some fifty steps, while little is lost yet."""

from __future__ import annotations

import numpy as np

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched

ID = "loss-does-not-fall"
METHODS = ("sft",)  # a policy's loss is near 0 whatever it learns
SEVERITIES = ("warning",)
TITLE = "The loss does not fall"
REASON = (
    "A loss that is after 50 steps what it was before stays there: the learning rate is too high "
    "for this base, or what is trained is not what was meant. It is said once, at the first logged "
    "step from 50 on at which the warm-up was over for as long as it lasted, where the mean loss "
    "of the last third of the steps is not at least half a percent under that of the first."
)
SOURCE = "practice: start at 2e-4, go to 1e-4 if the loss does not fall in the first 50 steps"
EXAMPLE = "loss 2.1034 over steps 1 to 17, 2.1051 over steps 34 to 50, learning_rate 0.0008"
MEND = (
    "Lower train.learning_rate to 1e-4, and see with `lorakit check --show 3` that the right "
    "tokens are trained. A base that knows the rows already has nothing to learn from them."
)

WATCHED_STEPS = 50
# Falls by less are no fall: within them lies what another order of the data changes.
FALL = 0.005
LOWER_RATE = 1e-4


def see(run: Watched) -> Finding | None:
    if not _is_due(run):
        return None
    ends = np.array([line["step"] for line in run.lines])
    losses = np.array([line["loss"] for line in run.lines])
    covered = np.diff(ends, prepend=0)  # steps behind each loss
    early, late = ends <= ends[-1] / 3, ends > ends[-1] * 2 / 3
    early[0] = True
    first = float(np.average(losses[early], weights=covered[early]))
    last = float(np.average(losses[late], weights=covered[late]))
    if last < first * (1 - FALL):
        return None
    rate = max(line["learning_rate"] for line in run.lines)
    message = (
        f"the loss did not fall in the first {ends[-1]} steps ({first:.4f} to {last:.4f}); "
        f"{_what_to_do(rate)}"
    )
    return Finding(ID, "warning", message, run.where)


def _is_due(run: Watched) -> bool:
    """Whether the newest line is the first that can tell: a warm-up is no time to fall in."""
    least = max(WATCHED_STEPS, 2 * run.peak_step)
    could_before = len(run.lines) > 3 and run.lines[-2]["step"] >= least
    return len(run.lines) > 2 and run.newest["step"] >= least and not could_before


def _what_to_do(rate: float) -> str:
    """Args: rate: the highest so far."""
    look = "see with `lorakit check --show 3` that the right tokens are trained"
    if rate > LOWER_RATE:
        return f"lower train.learning_rate (now {rate:.2g}) to {LOWER_RATE:g}, and {look}"
    return f"{look}; the learning rate is {rate:.2g} already"
