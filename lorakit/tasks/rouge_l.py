"""ROUGE-L (Lin, 2004): F-measure of the longest common subsequence of words, by rouge-score.

No stemming. Words are rouge-score's own on ASCII text; elsewhere they are runs of letters, marks
and digits of any script, which its own tokenizer would throw away. Empty texts score 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from lorakit.tasks import ScoringOptions

NAME = "rouge_l"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = False
HAS_FINAL_ANSWER = False
SUMMARY = "longest run of words, gaps allowed, that answer and reference share (ROUGE-L)"

_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{M}\p{N}--\p{Han}--\p{Hiragana}--\p{Katakana}]+",
    regex.V1,
)


class _Words(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each in [0, 1]."""
    rouge = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(answers, references, strict=True)
    return np.array([rouge.score(r, a)["rougeL"].fmeasure for a, r in pairs], np.float64)
