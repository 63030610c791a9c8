"""Solved examples for a prompt: those of the training set whose question is most like the one
asked, and is not that question itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lorakit.compare.questions import askable
from lorakit.data.conversation import Conversation, PlainText
from lorakit.evaluate.drawn import draw
from lorakit.retrieve.index import Bm25, search_words

# Jaccard similarity of word trigrams, from which on texts are called near duplicates: the usual bar
# when training data are deduplicated (Lee et al. 2021, arXiv 2107.06499).
NEAR_DUPLICATE = 0.8
# Examples that are looked through; more would not be more alike, only slower to index.
MAX_POOL = 20_000
# Candidates for each one wanted: near duplicates among them are passed over.
CANDIDATES = 8

Turns = tuple[dict[str, Any], ...]


class FewShot:
    """Examples to choose from.

    Args:
        conversations: what the training rows mean; those that are no plain questions and
            answers are passed over.
        seed: of the draw, where there are more than MAX_POOL.

    Attributes:
        pool: number of examples.
        seconds: that indexing took.
    """

    def __init__(self, conversations: Sequence[Conversation | PlainText], *, seed: int) -> None:
        started = time.perf_counter()
        self._examples: list[Turns] = []
        for index in draw(len(conversations), MAX_POOL, seed=seed).tolist():
            told = askable(conversations[index])
            if told is not None:
                messages = (*told[0], {"role": "assistant", "content": told[1]})
                # The system message is said once, by the question that is asked.
                self._examples.append(tuple(m for m in messages if m["role"] != "system"))
        self._questions = [str(turns[-2]["content"]) for turns in self._examples]
        self._index = Bm25(self._questions)
        self.pool = len(self._examples)
        self.seconds = time.perf_counter() - started

    def like(self, question: str, k: int) -> list[Turns]:
        """At most `k` examples, the most similar first; none that asks the same, or nearly."""
        chosen = []
        for index, _ in self._index.search(question, k * CANDIDATES):
            if not near_duplicates(question, self._questions[index]):
                chosen.append(self._examples[index])
                if len(chosen) == k:
                    break
        return chosen


def near_duplicates(one: str, other: str) -> bool:
    """Whether two questions are the same but for a word here and there, case and punctuation."""
    words, others = search_words(one), search_words(other)
    if set(words) == set(others):
        return True
    first, second = _trigrams(words), _trigrams(others)
    return len(first & second) >= NEAR_DUPLICATE * len(first | second)


def _trigrams(words: Sequence[str]) -> set[tuple[str, ...]]:
    # A text of fewer words is one of its own.
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
