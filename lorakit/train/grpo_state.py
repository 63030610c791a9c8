"""What a policy gradient keeps beside the weights: the cycle it is in, and what the next line says.

A run that was stopped anywhere inside a cycle goes on with the very completions, rewards and old
log-probabilities; between cycles there is nothing to keep, because questions, seeds and order are
functions of the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from lorakit.data.questions import Question
from lorakit.progress import bars_are_shown
from lorakit.train.checkpoint import Checkpoint
from lorakit.train.completions import NAME as COMPLETIONS_NAME
from lorakit.train.completions import in_words, samples
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.metrics import MetricsFile
from lorakit.train.per_completion import Statistics
from lorakit.train.rollouts import Rollouts, Seconds

GROUP = "rollouts"

log = logging.getLogger(__name__)


class GRPOState:
    """State of the run; see `lorakit.train.run.MethodState`.

    Args:
        settings: of the run.
        questions_of: cycle -> its questions.

    Attributes:
        rollouts: of the cycle that the run is in; None between two.
    """

    def __init__(
        self, settings: GRPOSettings, questions_of: Callable[[int], list[Question]]
    ) -> None:
        self.rollouts: Rollouts | None = None
        self._settings = settings
        self._questions_of = questions_of
        # {name: (sum, count)} since the last line; of what starts with "seconds/" the sum is told.
        self._sums: dict[str, tuple[float, float]] = {}
        self._file: MetricsFile | None = None
        self._samples: list[dict[str, Any]] = []  # of the last generation
        self._num_told = 0  # lines of the metrics

    def open(self, folder: Path | None, step: int) -> None:
        """Go on after a step; None: samples are not written."""
        if folder is not None:
            self._file = MetricsFile(folder, last_step=step, name=COMPLETIONS_NAME)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def keep_samples(self, tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> None:
        """Of a generation that is new."""
        self._samples = samples(tokenizer, rollouts, [one.name for one in self._settings.rewards])

    def tell(self, lines: list[dict[str, Any]]) -> None:
        """Show a sample where a terminal shows the metrics line that was just written."""
        if len(lines) > self._num_told and self._samples and bars_are_shown():
            log.info("%s", in_words(self._samples))
        self._num_told = len(lines)

    def count_step(self, statistics: Statistics) -> None:
        """Take the statistics of a step."""
        for name, entry in statistics.items():
            total, count = entry.tolist()
            self._add(name, total, count)

    def count_rollouts(self, rollouts: Rollouts, seconds: Seconds, step: int) -> None:
        """Take those of a generation, with the first step that learns from it, number `step`.

        Not when it was generated: a run that is stopped in between generates again.
        """
        if self._file is not None:
            for sample in self._samples:
                self._file.append({"step": step} | sample)
        count = len(rollouts)
        self._add_column("reward", "reward_std", rollouts.advantages.rewards)
        for one, column in zip(self._settings.rewards, rollouts.rewards.numpy().T, strict=True):
            name = f"rewards/{one.name}"
            self._add_column(f"{name}/mean", f"{name}/std", column)
        self._add("frac_reward_zero_std", count - int(rollouts.advantages.varies.sum()), count)
        self._add("completions/mean_length", int(rollouts.lengths.sum()), count)
        self._add("completions/clipped_ratio", int(rollouts.truncated.sum()), count)
        self._add("seconds/rollout", seconds.rollout, 1)
        self._add("seconds/reward", seconds.reward, 1)

    def tensors(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """See `MethodState`."""
        return {} if self.rollouts is None else {GROUP: self.rollouts.tensors()}

    def to_json(self) -> dict[str, Any]:
        """See `MethodState`."""
        return {
            "sums": {name: list(entry) for name, entry in self._sums.items()},
            "cycle": None if self.rollouts is None else self.rollouts.cycle,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """See `MethodState`."""
        state = checkpoint.state["method"]
        self._sums = {name: (total, count) for name, (total, count) in state["sums"].items()}
        cycle = state["cycle"]
        if cycle is not None:
            self.rollouts = Rollouts.of_tensors(
                checkpoint.tensors[GROUP], cycle, self._questions_of(cycle), self._settings
            )

    def take_line(self) -> dict[str, float]:
        """See `MethodState`: means since the line before, and the seconds that were spent."""
        line = {
            name: total if name.startswith("seconds/") else total / count
            for name, (total, count) in self._sums.items()
            if count > 0
        }
        self._sums = {}
        return line

    def _add_column(self, mean: str, std: str, values: np.ndarray) -> None:
        known = values[~np.isnan(values)]
        self._add(mean, float(known.sum()), len(known))
        if len(known) > 1:
            self._add(std, float(known.std(ddof=1)), 1)

    def _add(self, name: str, total: float, count: float) -> None:
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before[0] + total, before[1] + count)
