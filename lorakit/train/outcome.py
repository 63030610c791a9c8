"""How a run went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorakit.train.choices import Choices
from lorakit.train.run import FINISHED, Run


@dataclass(frozen=True)
class TrainOutcome:
    """How a run went.

    Attributes:
        steps: optimizer steps done.
        stopped: "finished" or "early stopping".
        tokens, trained_tokens: seen, padding not counted.
        seconds: spent in training steps, earlier processes included.
        loss: of the last line of the metrics.
        validation_loss: of the weights the model now has; None without validation.
        best_step: the step whose weights the model now has, with early stopping; otherwise None.
        metrics: the lines of metrics.jsonl.
        choices: what the engine decided.
        optimizer: its form, the bytes of its state, the pages that moved (see `AdamW.facts`).
    """

    steps: int
    stopped: str
    tokens: int
    trained_tokens: int
    seconds: float
    loss: float | None
    validation_loss: float | None
    best_step: int | None
    metrics: list[dict[str, Any]]
    choices: Choices
    optimizer: dict[str, int | str]

    def summary(self) -> dict[str, Any]:
        """For `lorakit train --json`; `reward` only where completions were rewarded."""
        return {
            "steps": self.steps,
            "stopped": self.stopped,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "seconds": self.seconds,
            "loss": self.loss,
            "validation_loss": self.validation_loss,
            "optimizer": self.optimizer,
            "findings": self.findings,
        } | ({} if self.reward is None else {"reward": self.reward})

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What was seen while it trained, in the shape of `Finding.to_json`."""
        return [one for line in self.metrics for one in line.get("findings", [])]

    @property
    def reward(self) -> float | None:
        """Of the last line of the metrics that has one; None: nothing was rewarded."""
        return next((line["reward"] for line in reversed(self.metrics) if "reward" in line), None)

    def to_json(self) -> dict[str, Any]:
        """Everything but the metrics, which have a file of their own."""
        values = {name: value for name, value in vars(self).items() if name != "metrics"}
        return values | {"choices": self.choices.to_json()}


def outcome_of(run: Run) -> TrainOutcome:
    """Of a run that has come to its end."""
    counters = run.counters
    stopping = run.validations.stopping
    early = stopping.patience is not None
    return TrainOutcome(
        steps=counters.step,
        stopped=counters.stopped or FINISHED,
        tokens=counters.tokens,
        trained_tokens=counters.trained_tokens,
        seconds=counters.seconds,
        loss=counters.last_loss,
        validation_loss=stopping.best_loss if early else counters.last_validation_loss,
        best_step=stopping.best_step if early else None,
        metrics=run.lines,
        choices=run.choices,
        optimizer=run.optimizer.facts(),
    )
