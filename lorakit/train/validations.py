"""The validations of a run, and the best weights where early stopping asks for them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from lorakit.train.checkpoint import Checkpoint
from lorakit.train.early_stopping import EarlyStopping
from lorakit.train.losses import example_losses
from lorakit.train.non_finite import validation_error
from lorakit.train.setup import Setup


class Validations:
    """What of a run looks at held-out examples.

    Args:
        setup: of the run.

    Attributes:
        stopping: what early stopping knows; without a patience it only counts.
        best: {name: tensor on the device}, the weights of the best validation; None: there was
            none, or the last weights are wanted.
    """

    def __init__(self, setup: Setup) -> None:
        settings = setup.job.settings
        self.stopping = EarlyStopping(
            settings.early_stopping_patience, settings.early_stopping_threshold
        )
        self.best: dict[str, torch.Tensor] | None = None
        self._setup = setup

    @property
    def are_made(self) -> bool:
        """Whether there are held-out examples."""
        return self._setup.job.validation is not None

    def measure(self, step: int) -> float:
        """The loss after a step.

        Raises:
            NonFiniteError: it is not finite.
            StoppedError: a signal cut the validation short.
        """
        setup, examples = self._setup, self._setup.job.validation
        assert examples is not None
        losses = example_losses(
            setup.job.model,
            examples,
            token_budget=setup.choices.micro_batch_tokens,
            packed=setup.choices.packed,
            pad_id=setup.job.pad_id,
            description="validating",
            should_stop=lambda: setup.caught.received is not None,
        )
        loss = losses.mean
        if not math.isfinite(loss):
            raise validation_error(losses, step, setup.last_checkpoint())
        if self.stopping.update(loss, step) and self.stopping.patience is not None:
            self.best = {n: t.clone() for n, t in setup.optimizer.parameters().items()}
        return loss

    def to_json(self) -> dict[str, Any]:
        """For the checkpoint, beside `best`."""
        return asdict(self.stopping)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.stopping = EarlyStopping(**checkpoint.state["early_stopping"])
        best, device = checkpoint.tensors.get("best"), self._setup.job.ranks.device
        self.best = None if best is None else {n: t.to(device) for n, t in best.items()}

    def finish(self) -> None:
        """Put the best weights back, when they were kept."""
        if self.best is not None:
            self._setup.optimizer.set_parameters(self.best)
            self._setup.job.adapter.parameters_changed()
