"""Whether the answer fits its own question better than any other: token F1 against its own
reference minus the mean token F1 against others of the set.

An answer that says the same to every question scores 0 on average over the set, however well it is
written. Every reference serves as an other one equally often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lorakit.errors import DataError
from lorakit.tasks import ScoringOptions
from lorakit.tasks.token_f1 import f1, words

NAME = "content"
HIGHER_IS_BETTER = True
IS_OF_A_SET = True
IS_RIGHT_OR_WRONG = False
HAS_FINAL_ANSWER = False
SUMMARY = "token F1 against its own reference, less that against the set's other references"

# A set of 64 is compared in full; 63 others out of many tell their mean to 0.01 or so.
MAX_OTHERS = 63


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each in [-1, 1].

    Raises:
        DataError: under two references, so that there is no other one.
    """
    count = len(references)
    if count < 2:
        raise DataError(
            f"metric content compares with other references, the set has {count}; it needs 2 at "
            "least. Add rows, or remove content from evaluate.metrics."
        )
    given = [Counter(words(answer)) for answer in answers]
    wanted = [Counter(words(reference)) for reference in references]
    own = np.array([f1(a, r) for a, r in zip(given, wanted, strict=True)], np.float64)
    others = np.array(
        [
            np.mean([f1(answer, wanted[j]) for j in picked])
            for answer, picked in zip(given, other_references(count, options.seed), strict=True)
        ]
    )
    return own - others


def other_references(count: int, seed: int) -> np.ndarray:
    """int64 (count, others): which references stand against each answer, never its own.

    All others up to MAX_OTHERS + 1 references; beyond, the next MAX_OTHERS of a seeded circle.
    """
    circle = np.random.Generator(np.random.Philox(seed)).permutation(count)
    steps = np.arange(1, min(count, MAX_OTHERS + 1))
    picked = np.empty((count, len(steps)), np.int64)
    picked[circle] = circle[(np.arange(count)[:, None] + steps) % count]
    return picked
