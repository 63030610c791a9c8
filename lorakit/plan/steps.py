"""Optimizer steps and tokens of a run, counted on the order in which it will see its examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order
from lorakit.errors import DataError

# Epochs that see different rows are counted one by one up to here, and extrapolated beyond.
MAX_COUNTED_EPOCHS = 100


@dataclass(frozen=True)
class RunLength:
    """Optimizer steps of a run, and the tokens they see: all, and those that are trained."""

    steps: int
    tokens: int
    trained_tokens: int
    exact: bool  # False: extrapolated from the first MAX_COUNTED_EPOCHS
    steps_per_epoch: int


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

    Raises:
        DataError: weights so small that an epoch sees no example.
    """
    lengths = np.stack([examples.lengths, examples.trained_lengths])
    first = epoch_order(len(examples), repeats, seed, 0)
    if not len(first):
        raise DataError(
            f"no example is left in an epoch of {len(examples)} with weights up to "
            f"{repeats.max():g}; raise the weights in data.train."
        )
    steps_per_epoch = -(-len(first) // batch_size)
    steps = max_steps if max_steps is not None else math.ceil(num_epochs * steps_per_epoch)
    whole_epochs, rest = divmod(steps, steps_per_epoch)
    seen = steps_per_epoch * batch_size  # an epoch with a few more examples ends there, too
    exact = True
    if np.all(repeats == np.round(repeats)):  # every epoch sees the same rows
        counted = min(whole_epochs, 1)
        totals = lengths[:, first].sum(axis=1) * counted
    else:
        counted = min(whole_epochs, MAX_COUNTED_EPOCHS)
        exact = counted == whole_epochs
        totals = np.zeros(2, dtype=np.int64)
        for epoch in range(counted):
            order = epoch_order(len(examples), repeats, seed, epoch)[:seen]
            totals += lengths[:, order].sum(axis=1)
    # Python's integers: the products may pass 64 bits.
    tokens, trained = (int(total) * whole_epochs // max(counted, 1) for total in totals)
    if rest:
        last = epoch_order(len(examples), repeats, seed, whole_epochs)[: rest * batch_size]
        tokens += int(lengths[0, last].sum())
        trained += int(lengths[1, last].sum())
    return RunLength(steps, tokens, trained, exact, steps_per_epoch)
