"""Whether the answer is the reference: the same words, in order, as `token_f1` reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.tasks import ScoringOptions, numbered
from lorakit.tasks.token_f1 import words

NAME = "exact_match"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = True
SUMMARY = "share of answers that are the reference, but for case, punctuation and articles"


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1."""
    pairs = zip(answers, references, strict=True)
    return np.array([words(a) == words(r) for a, r in pairs], np.float64)


def same_answers(answers: Sequence[str]) -> list[int | None]:
    """See `lorakit.tasks.Voter`: the whole answer, as it is compared; an empty one is one too."""
    return numbered([tuple(words(answer)) for answer in answers])
