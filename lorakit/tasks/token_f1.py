"""F1 of the words that answer and reference share, as SQuAD scores answers (arXiv 1606.05250).

Words are compared in lower case, without punctuation and without the articles a, an, the; each
counts as often as it occurs. Where this departs from SQuAD's script: a mark between two digits and
a minus before a number stay, so that 1.5 mg is not 15 mg; marks and symbols are those of Unicode;
characters of scripts without spaces are words of their own; and a text of nothing but articles or
marks keeps them, or the right answers A and + would be had by saying nothing. An empty answer
scores 0, unless the reference is empty too.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import regex

from lorakit.tasks import ScoringOptions

NAME = "token_f1"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = False
HAS_FINAL_ANSWER = False
SUMMARY = "overlap of the answer's words with the reference's (SQuAD's F1)"

_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = regex.compile(
    r"(?<=\d)[.,:/\-\u2013](?=\d)(*SKIP)(*FAIL)|(?<!\S)[\-\u2212](?=\d)(*SKIP)(*FAIL)|[\p{P}\p{S}]"
)
_UNSPACED = regex.compile(r"([\p{Han}\p{Hiragana}\p{Katakana}])")


def words(text: str) -> list[str]:
    """The words that count, in order."""
    lowered = unicodedata.normalize("NFC", text).lower()
    bare = _UNSPACED.sub(r" \1 ", _MARKS.sub("", lowered))
    found = bare.split()
    return [word for word in found if word not in _ARTICLES] or found or lowered.split()


def f1(answer: Counter[str], reference: Counter[str]) -> float:
    """Harmonic mean of precision and recall of two bags of words; 1 when both are empty."""
    total = answer.total() + reference.total()
    if not total:
        return 1.0
    few, many = sorted((answer, reference), key=len)
    shared = sum(min(count, many[word]) for word, count in few.items())
    return 2 * shared / total


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each in [0, 1]."""
    pairs = zip(answers, references, strict=True)
    return np.array([f1(Counter(words(a)), Counter(words(r))) for a, r in pairs], np.float64)
