"""What a reader of a run should know about its data: the shape of `RUN/data.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.contract import Finding
from lorakit.data.examples import ExampleSet
from lorakit.data.named_sets import NamedSets
from lorakit.data.pieces import pieces_of
from lorakit.data.prepare import Prepared
from lorakit.recipe.warm_start import TRAIN_SET

MAX_BINS = 24
MAX_TOKENS_SHOWN = 240  # of an example: about a screen
# Of the training examples by length: a short, a typical and a long one.
SHOWN_QUANTILES = (0.1, 0.5, 0.9)


def data_facts(
    sets: NamedSets,
    tokenizer: PreTrainedTokenizerBase,
    findings: Sequence[Finding],
    *,
    max_length: int | None,
) -> dict[str, Any]:
    """Counts and lengths of every set, all findings, and some training examples token by token,
    those of a warm start too.

    Args:
        findings: of the data contract and of the linter.
        max_length: tokens an example may have; None: no limit.

    Returns:
        `{"sets": {NAME: ...}, "findings": [...], "examples": [...]}`, plain values for JSON.
    """
    shown = sets.shown()
    return {
        "sets": {name: set_facts(one, max_length) for name, one in shown.items()},
        "findings": [finding.to_json() for finding in findings],
        "examples": examples_facts(shown, tokenizer),
    }


def examples_facts(
    sets: Mapping[str, Prepared],
    tokenizer: PreTrainedTokenizerBase,
    quantiles: Sequence[float] = SHOWN_QUANTILES,
) -> list[dict[str, Any]]:
    """Examples of what is trained on, or asked.

    Args:
        sets: by name, as `NamedSets.shown` has them.
        quantiles: of their lengths.
    """
    return [
        example_facts(name, sets[name].examples, index, tokenizer)
        for name in ("train", TRAIN_SET)
        if name in sets
        for index in shown_examples(sets[name].examples, quantiles)
    ]


def set_facts(prepared: Prepared, max_length: int | None) -> dict[str, Any]:
    """Rows, tokens and lengths of one set."""
    lengths = prepared.examples.lengths
    edges, counts = length_histogram(lengths)
    return {
        "read": prepared.read,
        "kept": prepared.kept,
        "dropped": prepared.dropped,
        "tokens": int(lengths.sum()),
        "trained_tokens": int(prepared.examples.trained_lengths.sum()),
        "lengths": {"edges": edges, "counts": counts},
        "longest": int(lengths.max()),
        "max_length": max_length,
    }


def length_histogram(lengths: np.ndarray) -> tuple[list[int], list[int]]:
    """Counts of lengths in at most MAX_BINS equal bins from 0, with round edges.

    Args:
        lengths: int64 (E,), positive.

    Returns:
        Edges (n + 1) and counts (n): bin i holds `edges[i] < length <= edges[i + 1]`.
    """
    longest = int(lengths.max())
    width = _round_up(longest / MAX_BINS)
    num_bins = -(-longest // width)
    counts = np.bincount((lengths - 1) // width, minlength=num_bins)
    return [width * edge for edge in range(num_bins + 1)], counts.tolist()


def _round_up(number: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    if number <= 1:
        return 1
    magnitude = 10 ** math.floor(math.log10(number))
    return next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= number)


def shown_examples(examples: ExampleSet, quantiles: Sequence[float] = SHOWN_QUANTILES) -> list[int]:
    """Indices of the examples at these quantiles of the lengths, without repetition."""
    by_length = np.argsort(examples.lengths, kind="stable")
    places = [round(quantile * (len(examples) - 1)) for quantile in quantiles]
    return list(dict.fromkeys(int(by_length[place]) for place in places))


def example_facts(
    name: str, examples: ExampleSet, index: int, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """One example of a set of that name token by token, around where its training begins."""
    example = examples[index]
    first_trained = int(np.argmax(example.loss_weights > 0))
    # A long prompt must not hide where training begins.
    latest = max(0, example.num_tokens - MAX_TOKENS_SHOWN)
    start = min(max(0, first_trained - MAX_TOKENS_SHOWN // 2), latest)
    end = min(start + MAX_TOKENS_SHOWN, example.num_tokens)
    shown = pieces_of(tokenizer, example, start=start, end=end)
    return {
        "set": name,
        "index": index,
        "tokens": example.num_tokens,
        "trained_tokens": example.num_trained_tokens,
        "left_out": {"before": start, "after": example.num_tokens - end},
        "pieces": [vars(piece) for piece in shown],
    }
