"""Per-example loss of a model, without ever keeping its logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base.head import backbone_hidden, head_parameters, logits_fn
from lorakit.data.examples import ExampleSet, MicroBatch
from lorakit.data.pack import collate, pack, pack_padded
from lorakit.progress import bar


@dataclass(frozen=True)
class ExampleLosses:
    """Losses of E examples.

    Attributes:
        nll: float64 (E,), weighted sum of the NLL of its trained tokens, in nats.
        weight: float64 (E,), sum of their loss weights: the number of trained tokens unless rows
            carry weights.
    """

    nll: np.ndarray
    weight: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over tokens, not over examples."""
        return float(self.nll.sum() / self.weight.sum())


def example_losses(
    model: PreTrainedModel,
    examples: ExampleSet,
    *,
    token_budget: int,
    packed: bool,
    pad_id: int = 0,
    max_examples: int | None = None,
    description: str = "evaluating",
) -> ExampleLosses:
    """Loss of each example under `model` as it stands (adapter on or off).

    Args:
        model: a causal language model; its training mode is restored afterwards.
        examples: at least one example with trained tokens each.
        token_budget: tokens of one forward pass (a longer example runs alone).
        packed: whether the family may be packed; otherwise rows are padded.
        pad_id: token id used for padding; never seen by the loss.
        max_examples: only the first so many; None: all.
        description: of the progress bar.
    """
    count = len(examples) if max_examples is None else min(max_examples, len(examples))
    nll, weight = np.zeros(count), np.zeros(count)
    device = model.device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), bar(description, count) as running:
            share = pack if packed else pack_padded
            for members in share(examples.lengths[:count].tolist(), token_budget):
                batch = collate(
                    [examples[i] for i in members], members, packed=packed, pad_id=pad_id
                )
                batch_nll, batch_weight = _batch_losses(model, batch.to(device))
                nll[members], weight[members] = batch_nll, batch_weight
                running.advance(len(members))
    finally:
        model.train(was_training)
    return ExampleLosses(nll, weight)


def _batch_losses(model: PreTrainedModel, batch: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
    """Weighted NLL and weight of each of the S examples."""
    hidden = backbone_hidden(model, batch)[batch.predictor_rows]
    _, token_nll = kernels.linear_cross_entropy(
        hidden,
        logits_fn(model),
        batch.targets,
        batch.target_weights,
        parameters=head_parameters(model),
    )
    num_examples = len(batch.example_ids)
    weights = batch.target_weights.double()
    sums = torch.zeros(2, num_examples, dtype=torch.float64, device=weights.device)
    sums[0].index_add_(0, batch.target_examples, token_nll.double() * weights)
    sums[1].index_add_(0, batch.target_examples, weights)
    nll, weight = sums.cpu().numpy()
    return nll, weight
