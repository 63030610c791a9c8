"""The loss is higher than at the start: the run has diverged."""

from __future__ import annotations

import numpy as np

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched

ID = "loss-rises"
METHODS = ("sft",)  # a policy's loss is near 0 whatever it learns
SEVERITIES = ("warning",)
TITLE = "The loss is higher than at the start"
REASON = (
    "A run whose loss rises above that of its first steps has lost what the base could do, and "
    "seldom finds back. It is said once, where the mean loss of the last 20 logged steps is a "
    "tenth above that of the first 20, and by more than five standard errors: single spikes, and "
    "rows of uneven difficulty, do not reach that."
)
SOURCE = "practice; PaLM (arXiv 2204.02311), section 5.1: spikes, and going back behind them"
EXAMPLE = "loss 2.10 over the first 20 logged steps, 6.84 over the last 20"
MEND = (
    "Stop, lower train.learning_rate (a half or a third is a start) or give it a warm-up, and "
    "train again; train.max_grad_norm 1.0 bounds a single bad batch."
)

WINDOW = 20  # logged steps
ABOVE = 0.1  # of the mean at first
SURE = 5.0  # standard errors: a long run looks a thousand times


def see(run: Watched) -> Finding | None:
    if len(run.lines) < 2 * WINDOW:
        return None
    first, last = (
        np.array([line["loss"] for line in part])
        for part in (run.lines[:WINDOW], run.lines[-WINDOW:])
    )
    rise = last.mean() - first.mean()
    error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / WINDOW)
    if rise <= max(ABOVE * first.mean(), SURE * error):
        return None
    message = (
        f"the loss is higher than at the start ({first.mean():.4f} over the first {WINDOW} logged "
        f"steps, {last.mean():.4f} over the last); stop, and train again with a lower "
        f"train.learning_rate (now {run.settings.learning_rate:g})"
    )
    return Finding(ID, "warning", message, run.where)
