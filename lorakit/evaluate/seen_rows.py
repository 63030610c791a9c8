"""Training rows to hold unseen ones against: of all sources that were trained on, the likest one.

Rows of a mixture gain differently, so that general rows beside the task's own would pass for, or
hide, over-fitting. Of several sources (files) the one is taken whose trained tokens are distributed
most like those of the unseen rows, by the Jensen-Shannon divergence of their frequencies (Lin, IEEE
Trans. Inf. Theory 37, 1991). V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.sources import Placed
from lorakit.evaluate.statistics import MIN_EXAMPLES

LOOKED_AT = 5000  # training rows, drawn by the seed


def seen_rows(
    train: ExampleSet, rows: Sequence[Placed], unseen: ExampleSet, count: int, *, seed: int
) -> tuple[np.ndarray, str]:
    """At most `count` training rows of the source that is like the unseen rows.

    Args:
        train: the training set; rows: behind it.
        unseen: rows that were not trained on.
        count: rows wanted.
        seed: of the draw.

    Returns:
        int64 indices in order, and the name of the source (`file`, or `memory`).
    """
    sources: dict[str, list[int]] = {}
    for place in looked_at(len(train), seed).tolist():
        sources.setdefault(rows[place].location.rpartition(":")[0], []).append(place)
    large = {name: found for name, found in sources.items() if len(found) >= MIN_EXAMPLES}
    sources = large or sources
    chosen = next(iter(sources))
    if len(sources) > 1:
        like = token_counts(unseen, range(len(unseen)))
        chosen = min(sources, key=lambda name: divergence(like, token_counts(train, sources[name])))
    return np.sort(np.array(sources[chosen][:count], np.int64)), chosen


def looked_at(num_rows: int, seed: int) -> np.ndarray:
    """int64, the training rows among which seen ones are chosen, in the order of the draw."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.permutation(num_rows)[:LOOKED_AT]


def token_counts(examples: ExampleSet, indices: Iterable[int]) -> np.ndarray:
    """int64 (V,), how often each token is trained in these examples; V as far as any token goes."""
    trained = []
    for index in indices:
        example = examples[index]
        trained.append(example.input_ids[example.loss_weights > 0])
    return np.bincount(np.concatenate(trained))


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence of two counts of tokens, in nats: 0 to log 2."""
    size = max(len(one), len(other))
    p, q = (np.pad(counts, (0, size - len(counts))) / counts.sum() for counts in (one, other))
    middle = (p + q) / 2
    return float((_kl(p, middle) + _kl(q, middle)) / 2)


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
