"""The learning rate of every optimizer step, as a pure function of the step: nothing to checkpoint.

Values equal transformers' `get_scheduler`, whose first step has the learning rate of step 0: with
warm-up that is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lorakit.errors import InputError
from lorakit.recipe.rules.fault import unknown

Kind = Literal["cosine", "linear", "constant"]

DEFAULT_WARMUP_RATIO = 0.05


def check_kind(kind: str) -> None:
    """Refuse a schedule that there is not.

    Raises:
        InputError: naming the nearest one.
    """
    if kind not in get_args(Kind):
        fault = unknown(("lr_scheduler_type",), kind, get_args(Kind))
        raise InputError(f"lr_scheduler_type {fault.message}. Choose one of them.")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then `kind` down to 0 (constant: no decay).

    Attributes:
        kind: shape after the warm-up.
        peak: the learning rate at the end of the warm-up.
        num_steps: optimizer steps of the whole run.
        num_warmup_steps: steps of the warm-up.

    Raises:
        InputError: `kind` is not known.
    """

    kind: Kind
    peak: float
    num_steps: int
    num_warmup_steps: int

    def __post_init__(self) -> None:
        check_kind(self.kind)

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0."""
        if step < self.num_warmup_steps:
            return self.peak * (step / max(1, self.num_warmup_steps))
        if self.kind == "constant":
            return self.peak
        num_decay_steps = max(1, self.num_steps - self.num_warmup_steps)
        if self.kind == "linear":
            return self.peak * max(0.0, (self.num_steps - step) / num_decay_steps)
        progress = (step - self.num_warmup_steps) / num_decay_steps
        return self.peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def count_warmup_steps(
    kind: Kind,
    num_steps: int,
    *,
    warmup_steps: int | None = None,
    warmup_ratio: float | None = None,
) -> int:
    """Warm-up steps of a run: as given, or a share of all steps rounded up (as transformers does).

    Args:
        kind: of the schedule.
        num_steps: optimizer steps of the whole run.
        warmup_steps: the number itself; wins when given.
        warmup_ratio: share of `num_steps`; None: 0.05, and 0 of a constant one, which is asked for
            because it does not change.
    """
    if warmup_steps is not None:
        return warmup_steps
    default = 0.0 if kind == "constant" else DEFAULT_WARMUP_RATIO
    return math.ceil(num_steps * (default if warmup_ratio is None else warmup_ratio))
