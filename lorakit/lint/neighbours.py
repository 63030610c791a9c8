"""How well answers fit their own prompts, those of neighbouring rows, and any."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from lorakit.lint.row_texts import RowText
from lorakit.lint.words import words

MAX_WORDS = 300  # of a text
QUOTED = 8  # words in a row that are no coincidence
# Rows that have nothing to do with each other, but for what all rows share.
FAR = (17, 29, 41, -17, -29, -41)
NEAR = (-1, 0, 1)


def fits(rows: Sequence[RowText]) -> dict[int, np.ndarray]:
    """{distance: cosine (rows,) of each answer and the prompt so many rows further down}.

    By words weighted with their rarity (tf-idf), so that what a template says in all rows counts
    nothing. NaN where there is no such row, or the answer's first or last words stand in that
    prompt as they are: then rows are steps of one text or dialogue.
    """
    prompts = [Counter(_words(row.prompt)) for row in rows]
    answers = [Counter(_words(row.answer)) for row in rows]
    rarity = _rarity([*prompts, *answers])
    asked = [_weighted(counts, rarity) for counts in prompts]
    said = [_weighted(counts, rarity) for counts in answers]
    return {
        distance: np.array(
            [
                _cosine(said[i], asked[i + distance])
                if 0 <= i + distance < len(rows)
                and (distance == 0 or not _holds(rows[i + distance].prompt, rows[i].answer))
                else math.nan
                for i in range(len(rows))
            ]
        )
        for distance in (*NEAR, *FAR)
    }


def _words(text: str) -> list[str]:
    return words(text[: 12 * MAX_WORDS])[:MAX_WORDS]


def _holds(prompt: str, answer: str) -> bool:
    """Whether a prompt quotes how an answer begins or ends; it may have been cut on the way."""
    listed = answer.split()
    squeezed = " ".join(prompt.split())
    return any(" ".join(piece) in squeezed for piece in (listed[:QUOTED], listed[-QUOTED:]))


def _rarity(texts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """{word: log of texts over texts with it}."""
    with_word: dict[str, int] = defaultdict(int)
    for counts in texts:
        for word in counts:
            with_word[word] += 1
    return {word: math.log(len(texts) / count) for word, count in with_word.items()}


def _weighted(counts: Mapping[str, int], rarity: Mapping[str, float]) -> dict[str, float]:
    """Of length 1; empty if nothing but what all say is in it."""
    weights = {word: rarity[word] for word in counts}
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()} if length else {}


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    if len(one) > len(other):
        one, other = other, one
    return sum(weight * other.get(word, 0.0) for word, weight in one.items())
