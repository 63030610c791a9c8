"""Optimizer steps and tokens of a run, counted on the order in which it will see its examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order


@dataclass(frozen=True)
class RunLength:
    """Optimizer steps of a run, and the tokens they see: all, and those that are trained."""

    steps: int
    tokens: int
    trained_tokens: int


def count_run_length(
    examples: ExampleSet,
    repeats: np.ndarray,
    *,
    batch_size: int,
    num_epochs: float,
    max_steps: int | None,
    seed: int,
) -> RunLength:
    """Count without tokenizing or reading an example again: lengths are enough.

    Args:
        examples: the training set.
        repeats: float64 (number of examples,), how often each is seen per epoch.
        batch_size: examples per optimizer step.
        num_epochs: may be a fraction; the last step is then in mid-epoch.
        max_steps: steps instead of epochs; None: by epochs.
        seed: of the order.
    """
    lengths = np.stack([examples.lengths, examples.trained_lengths])
    first = epoch_order(len(examples), repeats, seed, 0)
    steps_per_epoch = -(-len(first) // batch_size)
    steps = max_steps if max_steps is not None else math.ceil(num_epochs * steps_per_epoch)
    whole_epochs, rest = divmod(steps, steps_per_epoch)
    if np.all(repeats == np.round(repeats)):  # every epoch sees the same rows
        totals = whole_epochs * lengths[:, first].sum(axis=1)
    else:
        totals = np.zeros(2, dtype=np.int64)
        for epoch in range(whole_epochs):
            totals += lengths[:, epoch_order(len(examples), repeats, seed, epoch)].sum(axis=1)
    if rest:
        last = epoch_order(len(examples), repeats, seed, whole_epochs)[: rest * batch_size]
        totals = totals + lengths[:, last].sum(axis=1)
    return RunLength(steps, int(totals[0]), int(totals[1]))
