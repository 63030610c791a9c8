"""Loss on held-out examples while training, and when to stop because it no longer falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import collate, pack, pack_padded
from lorakit.train.step import compute_device, weighted_nll


def validation_loss(
    model: PreTrainedModel, examples: ExampleSet, *, token_budget: int, packed: bool, pad_id: int
) -> float:
    """Weighted mean of the negative log-likelihood over all trained tokens of `examples`.

    No logits are kept, and the micro-batches are those of training: what trains also validates.
    The model is in evaluation mode meanwhile, and in training mode afterwards.
    """
    packing = pack if packed else pack_padded
    groups = packing(examples.lengths.tolist(), token_budget)
    device = compute_device(model)
    sums: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    model.eval()
    try:
        with torch.no_grad():
            for group in groups:
                batch = collate([examples[i] for i in group], group, packed=packed, pad_id=pad_id)
                sums.append(weighted_nll(model, batch.to(device))[0].double())
                weights.append(batch.target_weights.double().sum())
    finally:
        model.train()
    # Read once at the end: no wait per micro-batch.
    return math.fsum(torch.stack(sums).tolist()) / math.fsum(torch.stack(weights).tolist())


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
