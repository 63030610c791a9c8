"""When to stop because the loss on held-out examples no longer falls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """Whether the validation loss still falls.

    Attributes:
        patience: validations without improvement until the run stops; None: never.
        threshold: how much lower than the best a loss must be to count as improvement.
        best_loss, best_step: of the best validation so far; None before the first.
        num_without_improvement: validations since then.
    """

    patience: int | None
    threshold: float
    best_loss: float | None = None
    best_step: int | None = None
    num_without_improvement: int = 0

    def update(self, loss: float, step: int) -> bool:
        """Take a validation into account; whether it is the best so far."""
        if self.best_loss is None or loss < self.best_loss - self.threshold:
            self.best_loss, self.best_step, self.num_without_improvement = loss, step, 0
            return True
        self.num_without_improvement += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return self.patience is not None and self.num_without_improvement >= self.patience
