"""Loss of each example under a model as it stands, without ever keeping its logits.

E examples, N trained positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.base.eval_mode import eval_mode
from lorakit.data.examples import ExampleSet
from lorakit.data.pack import collate, packing_of
from lorakit.errors import RunError
from lorakit.progress import bar
from lorakit.train.step import weighted_nll


class StoppedError(RunError):
    """`example_losses` was told to stop before it was done."""


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
    should_stop: Callable[[], bool] = lambda: False,
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
        should_stop: asked before every forward pass.

    Raises:
        StoppedError: `should_stop` said so.
    """
    count = len(examples) if max_examples is None else min(max_examples, len(examples))
    device = model.device
    owners, weights = [], []
    token_nlls: list[torch.Tensor] = []
    with eval_mode(model), torch.no_grad(), bar(description, count) as progress:
        for group in packing_of(packed)(examples.lengths[:count].tolist(), token_budget):
            if should_stop():
                raise StoppedError(f"{description} was stopped before it was done; go on later")
            batch = collate([examples[i] for i in group], group, packed=packed, pad_id=pad_id)
            owners.append(batch.example_ids[batch.target_examples])
            weights.append(batch.target_weights.double())
            # Copied to the host once, at the end: no wait for the device per micro-batch.
            token_nlls.append(weighted_nll(model, batch.to(device))[1])
            progress.advance(len(group))
    owner_N, weight_N = torch.cat(owners).numpy(), torch.cat(weights).numpy()
    # Summed on the host, in order: a device adds in whatever order its threads arrive.
    nll_N = torch.cat(token_nlls).cpu().double().numpy()
    return ExampleLosses(
        np.bincount(owner_N, nll_N * weight_N, minlength=count),
        np.bincount(owner_N, weight_N, minlength=count),
    )
