"""Loss of each example under a model as it stands, without ever keeping its logits.

E examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import collate, pack, pack_padded
from lorakit.progress import bar
from lorakit.train.step import weighted_nll


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
    """Loss of each example under `model`, adapter on or off.

    Args:
        model: a causal language model; in evaluation mode meanwhile, then every module is in the
            mode it was in.
        examples: each with at least one trained token.
        token_budget: tokens of one forward pass (a longer example runs alone).
        packed: whether examples may share a row; otherwise rows are padded.
        pad_id: token id for padding; never seen by the loss.
        max_examples: only the first so many; None: all.
        description: of the progress bar.
    """
    count = len(examples) if max_examples is None else min(max_examples, len(examples))
    share = pack if packed else pack_padded
    device = model.device
    nll_E, weight_E = torch.zeros(2, count, dtype=torch.float64, device=device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), bar(description, count) as progress:
            for group in share(examples.lengths[:count].tolist(), token_budget):
                batch = collate([examples[i] for i in group], group, packed=packed, pad_id=pad_id)
                batch = batch.to(device)
                token_nll = weighted_nll(model, batch)[1].double()
                owners = batch.example_ids[batch.target_examples]
                weights = batch.target_weights.double()
                # Read once at the end: no wait for the device per micro-batch.
                nll_E.index_add_(0, owners, token_nll * weights)
                weight_E.index_add_(0, owners, weights)
                progress.advance(len(group))
    finally:
        for module, training in modes.items():
            module.training = training
    return ExampleLosses(nll_E.cpu().numpy(), weight_E.cpu().numpy())
