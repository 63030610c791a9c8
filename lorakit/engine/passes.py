"""A forward pass by its lengths alone: what it costs is known before any token is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import packing_of


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        tokens: laid out, padding included.
        trained: positions with a loss.
        lengths: of the rows that attend within themselves, padding included.
    """

    tokens: int
    trained: int
    lengths: tuple[int, ...]


def lay_out(
    examples: ExampleSet, rows: np.ndarray, *, micro_batch_tokens: int, packed: bool
) -> list[Pass]:
    """The passes that see the examples at `rows`."""
    lengths = examples.lengths[rows].tolist()
    trained = examples.trained_lengths[rows].tolist()
    groups = packing_of(packed)(lengths, micro_batch_tokens)
    passes = []
    for group in groups:
        of_rows = [lengths[i] for i in group]
        laid = of_rows if packed else [max(of_rows)] * len(group)
        passes.append(Pass(sum(laid), sum(trained[i] for i in group), tuple(laid)))
    return passes
