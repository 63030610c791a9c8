"""How right each section is: mean over the reference's sections of the token F1 of its content.

Headings as in `outline`, their order does not matter here. A section that the answer lacks, or has
twice, scores 0, so the right headings with wrong facts score low. A reference without headings is
one section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lorakit.tasks import ScoringOptions
from lorakit.tasks.outline import sections
from lorakit.tasks.token_f1 import f1, words

NAME = "section_f1"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = False
HAS_FINAL_ANSWER = False
SUMMARY = "overlap of words section by section, a missing section counting 0"


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each in [0, 1]."""
    return np.array([_score(a, r) for a, r in zip(answers, references, strict=True)], np.float64)


def _score(answer: str, reference: str) -> float:
    wanted = _by_heading(reference)
    if not wanted:
        return f1(Counter(words(answer)), Counter(words(reference)))
    given = _by_heading(answer)
    parts = [
        f1(Counter(words(given[heading][0])), Counter(words(content)))
        if len(given.get(heading, [])) == 1
        else 0.0
        for heading, contents in wanted.items()
        for content in contents
    ]
    return sum(parts) / len(parts)


def _by_heading(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for section in sections(text):
        found.setdefault(section.heading, []).append(section.content)
    return found
