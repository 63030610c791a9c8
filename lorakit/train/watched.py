"""What watchers look at: the metrics lines of a run so far, and how it was set up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lorakit.train.settings import LoopSettings

if TYPE_CHECKING:
    from lorakit.train.grpo_settings import GRPOSettings

Line = Mapping[str, Any]


class Watched:
    """A run, as its metrics lines tell of it.

    Args:
        settings: of its loop.
        num_steps: optimizer steps of the whole run.
        grpo: of a policy gradient; None: a likelihood is trained.

    Attributes:
        lines: so far, the newest last.
        generations: those that tell of a generation: of completions and their rewards.
        validations: those with a validation loss.
        peak_step: at which the learning rate was highest, the first of equal ones.
    """

    def __init__(
        self, settings: LoopSettings, num_steps: int, *, grpo: GRPOSettings | None = None
    ) -> None:
        self.settings, self.num_steps, self.grpo = settings, num_steps, grpo
        self.lines: list[Line] = []
        self.generations: list[Line] = []
        self.validations: list[Line] = []
        self.peak_step = 0
        self._peak_rate = -1.0

    def add(self, line: Line) -> None:
        """Take the newest line."""
        self.lines.append(line)
        if "reward" in line:
            self.generations.append(line)
        if "validation_loss" in line:
            self.validations.append(line)
        if line["learning_rate"] > self._peak_rate:
            self.peak_step, self._peak_rate = line["step"], line["learning_rate"]

    @property
    def method(self) -> str:
        """As `train.method` names it."""
        return "sft" if self.grpo is None else "grpo"

    @property
    def newest(self) -> Line:
        """The line that was added last."""
        return self.lines[-1]

    @property
    def where(self) -> str:
        """The place of what is seen now."""
        return f"step {self.newest['step']}"

    @property
    def is_over(self) -> bool:
        """Whether the newest line is that of the last step."""
        return bool(self.newest["step"] == self.num_steps)


def mean(lines: Sequence[Line], name: str) -> float:
    """Over the lines that have the value; NaN where none has."""
    values = [line[name] for line in lines if name in line]
    return float(np.mean(values)) if values else float("nan")
