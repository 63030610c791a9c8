"""Batches of the training data for what looks at a model's activations before training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import collate, epoch_order, pack_padded

UNTRAINED = -100  # the label of a token that is not trained, as transformers has it
MAX_BATCHES = 64  # what a survey sees at most, however large the data are
EXAMPLES_AT_A_TIME = 32  # share micro-batches with examples of similar length


def calibration_batches(
    examples: ExampleSet,
    repeats: np.ndarray | None,
    *,
    seed: int,
    token_budget: int,
    pad_id: int = 0,
    max_batches: int = MAX_BATCHES,
) -> Iterator[dict[str, torch.Tensor]]:
    """The beginning of the first epoch, padded: what `model(**batch)` takes.

    Args:
        examples, repeats, seed: as in training; the order is the first epoch's.
        token_budget: tokens of a batch, padding counted; a longer example is a batch of its own.
        pad_id: written where nothing is.
        max_batches: so many at most.

    Yields:
        `input_ids`, `attention_mask` and `labels` (-100 where nothing is trained), int64 (B, T).
    """
    order = epoch_order(len(examples), repeats, seed, 0)
    made = 0
    for start in range(0, len(order), EXAMPLES_AT_A_TIME):
        chosen = order[start : start + EXAMPLES_AT_A_TIME]
        for group in pack_padded(examples.lengths[chosen].tolist(), token_budget):
            if made == max_batches:
                return
            yield _batch(examples, [int(chosen[i]) for i in group], pad_id)
            made += 1


def _batch(examples: ExampleSet, indices: list[int], pad_id: int) -> dict[str, torch.Tensor]:
    batch = collate([examples[i] for i in indices], indices, packed=False, pad_id=pad_id)
    assert batch.attention_mask is not None
    labels = torch.full_like(batch.input_ids, UNTRAINED)
    # A row of hidden states predicts the token after it.
    labels.view(-1)[batch.predictor_rows + 1] = batch.targets
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": labels,
    }
