"""Whether the answer is the reference: the same words, in order, as `token_f1` reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.tasks import ScoringOptions
from lorakit.tasks.token_f1 import words

NAME = "exact_match"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
SUMMARY = "share of answers that are the reference, but for case, punctuation and articles"


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1."""
    pairs = zip(answers, references, strict=True)
    return np.array([words(a) == words(r) for a, r in pairs], np.float64)
