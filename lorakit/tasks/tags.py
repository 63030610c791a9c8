"""Whether the answer is one `<think>` and one `<answer>` block, in this order, and nothing else.

Each tag stands exactly once, neither block is empty, and only white space may stand around them. A
template that writes `<think>` itself leaves it out of the answer; such an answer scores 0, use the
scorer `regex` there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regex

from lorakit.tasks import ScoringOptions

NAME = "tags"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = False
SUMMARY = "share of answers that are one <think> and one <answer> block, nothing else"

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORM = regex.compile(r"(?s)\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*")


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1."""
    return np.array([_has_form(answer) for answer in answers], np.float64)


def _has_form(answer: str) -> bool:
    # Counted first: with each tag there once, the pattern has one way to match, in linear time.
    if any(answer.count(tag) != 1 for tag in TAGS):
        return False
    match = _FORM.fullmatch(answer)
    return match is not None and all(block.strip() for block in match.groups())
