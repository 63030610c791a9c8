"""BM25 over texts, by bm25s (Lù 2024, arXiv 2407.03618): Lucene's formula, k1 1.5, b 0.75.

Everything is in the order of the texts: the same texts give the same index, scores and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import regex

# Of scripts that put no spaces between words, each character is one.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
# So frequent in English that they tell nothing and cost most of the time.
_STOPWORDS = frozenset(bm25s.stopwords.STOPWORDS_EN)


def search_words(text: str) -> list[str]:
    """The words that a text is found by, in lower case and in order."""
    words: list[str] = _WORD.findall(_UNSPACED.sub(r" \g<0> ", text.lower()))
    return [word for word in words if word not in _STOPWORDS]


class Bm25:
    """An index in memory.

    Args:
        texts: what is searched; one at least.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        self._vocabulary: dict[str, int] = {}
        ids = [
            [
                self._vocabulary.setdefault(word, len(self._vocabulary))
                for word in search_words(text)
            ]
            for text in texts
        ]
        self._index = None
        if self._vocabulary:
            self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
            self._index.index((ids, dict(self._vocabulary)), show_progress=False)

    def search(self, question: str, k: int) -> list[tuple[int, float]]:
        """At most `k` (index of a text, score), the best first, equal ones in the texts' order;
        texts that share no word with the question are left out."""
        words = dict.fromkeys(search_words(question))
        known = [self._vocabulary[word] for word in words if word in self._vocabulary]
        if not known or self._index is None:
            return []
        scores = np.asarray(self._index.get_scores_from_ids(known))[: self._size]
        best = np.argsort(-scores, kind="stable")[:k]
        return [(int(i), float(scores[i])) for i in best if scores[i] > 0]
