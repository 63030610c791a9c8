"""What a run keeps beside tensors, and what a method of training adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from lorakit.train.batches import StepBatch
from lorakit.train.checkpoint import Checkpoint
from lorakit.train.metrics import MetricsLine


@dataclass
class Counters:
    """What a checkpoint keeps besides tensors.

    `weighted_loss`, `weight`, `line_tokens` and `line_seconds` are since the last metrics line;
    `due_line` holds learning rate and gradient norm of a step whose validation a signal cut short.
    """

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    last_loss: float | None = None
    last_validation_loss: float | None = None
    weighted_loss: float = 0.0
    weight: float = 0.0
    line_tokens: int = 0
    line_seconds: float = 0.0
    due_line: tuple[float, float] | None = None

    def count_step(self, batch: StepBatch, loss: float) -> None:
        """One more step is done."""
        self.step += 1
        self.tokens += batch.num_tokens
        self.trained_tokens += batch.num_trained_tokens
        self.line_tokens += batch.num_tokens
        self.weighted_loss += loss * batch.total_weight
        self.weight += batch.total_weight

    def line(
        self,
        *,
        steps_per_epoch: float,
        learning_rate: float,
        grad_norm: float,
        peak_bytes: int,
        validation_loss: float | None,
    ) -> MetricsLine:
        """What is told of the steps since the last one."""
        return MetricsLine(
            step=self.step,
            epoch=self.step / steps_per_epoch,
            loss=self.weighted_loss / self.weight,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
            tokens_per_second=self.line_tokens / max(self.line_seconds, 1e-9),
            peak_bytes=peak_bytes,
            seconds=self.seconds,
            validation_loss=validation_loss,
        )

    def begin_line(self, last_loss: float) -> None:
        """A line was written: its sums begin anew."""
        self.last_loss = last_loss
        self.weighted_loss, self.weight = 0.0, 0.0
        self.line_tokens, self.line_seconds = 0, 0.0


class MethodState(Protocol):
    """What a method of training keeps beside the weights: saved, restored and told with them."""

    def open(self, folder: Path | None, step: int) -> None:
        """Go on after a step, in a run folder; None: nothing is written."""

    def close(self) -> None:
        """Close the files."""

    def tensors(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """{group: {name: tensor}} for the checkpoint; groups that no other part of a run has."""

    def to_json(self) -> dict[str, Any]:
        """The rest, for the checkpoint's state."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from what both gave; `checkpoint.state["method"]` is what `to_json` gave."""

    def take_line(self) -> dict[str, float]:
        """What a line of the metrics has besides; counted anew from here on."""
