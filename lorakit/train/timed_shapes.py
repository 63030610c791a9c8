"""Which micro-batches are imitated to find what a pass takes, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.data.examples import Example, MicroBatch
from lorakit.data.pack import collate
from lorakit.engine.passes import Pass

MIN_TOKENS = 32


def chosen_sizes(passes: Sequence[Pass]) -> list[Pass]:
    """A short, a middling and a long micro-batch, by the tokens that lie in them."""
    by_size = sorted(passes, key=lambda one: one.tokens)
    behind = np.cumsum([one.tokens for one in by_size])
    places = np.searchsorted(behind, behind[-1] * np.array([0.1, 0.5, 0.9]))
    chosen = {by_size[i].tokens: by_size[i] for i in np.minimum(places, len(by_size) - 1)}
    return [chosen[tokens] for tokens in sorted(chosen)]


def shortened(shape: Pass, tokens: int) -> Pass:
    """The same mixture of lengths with about so many tokens."""
    if shape.tokens <= max(tokens, MIN_TOKENS):
        return shape
    share = max(tokens, MIN_TOKENS) / shape.tokens
    lengths: list[int] = []
    for length in shape.lengths:
        if sum(lengths) + length > share * shape.tokens:
            break
        lengths.append(length)
    lengths = lengths or [int(share * shape.tokens)]
    return Pass(
        sum(lengths), max(1, int(shape.trained * sum(lengths) / shape.tokens)), tuple(lengths)
    )


def random_batch(
    shape: Pass, generator: np.random.Generator, *, num_words: int, packed: bool
) -> MicroBatch:
    """A micro-batch of this shape with random words."""
    left = min(shape.trained, sum(n - 1 for n in shape.lengths))
    examples = []
    for place, length in enumerate(shape.lengths):
        trained = min(length - 1, -(-left // (len(shape.lengths) - place)))
        left -= trained
        weights = np.zeros(length, dtype=np.float32)
        weights[length - trained :] = 1 if trained else 0
        examples.append(
            Example(generator.integers(num_words, size=length, dtype=np.int32), weights)
        )
    return collate(examples, range(len(examples)), packed=packed, pad_id=0)
