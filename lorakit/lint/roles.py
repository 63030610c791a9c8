"""Which role a text of a chat sounds like: naive Bayes on the words that a set's roles use.

A word counts once for a role in a chat. What is asked of a chat is asked without it: its own words
are taken out of the counts first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.lint.row_texts import RowText
from lorakit.lint.words import words

MAX_WORDS = 400  # of a role in a chat
ROUNDS = 3


@dataclass(frozen=True)
class Said:
    """Words of the two roles of a chat, as indices into a vocabulary."""

    user: np.ndarray
    assistant: np.ndarray


def fit_of_roles(rows: Sequence[RowText]) -> np.ndarray:
    """How much better each chat's roles fit as they are than exchanged, in nats; below 0: worse.

    Chats that fit worse are exchanged and the words counted again, some times: else what they say
    wrongly would stand against their own correction.

    Args:
        rows: chats in which user and assistant both speak.

    Returns:
        float64 (rows,).
    """
    vocabulary: dict[str, int] = {}
    said = [_said(row, vocabulary) for row in rows]
    exchanged = np.zeros(len(said), dtype=bool)
    fit = np.zeros(len(said))
    for _ in range(ROUNDS):
        user = np.zeros(len(vocabulary))
        assistant = np.zeros(len(vocabulary))
        for one, is_exchanged in zip(said, exchanged, strict=True):
            user[one.assistant if is_exchanged else one.user] += 1
            assistant[one.user if is_exchanged else one.assistant] += 1
        fit = np.array(
            [
                _fit(one, user, assistant, is_exchanged=bool(is_exchanged), total=len(said))
                for one, is_exchanged in zip(said, exchanged, strict=True)
            ]
        )
        exchanged = fit < 0
    return fit


def _said(row: RowText, vocabulary: dict[str, int]) -> Said:
    def of(role: str) -> np.ndarray:
        text = " ".join(text for speaker, text in row.turns if speaker == role)
        listed = words(text[: 12 * MAX_WORDS])[:MAX_WORDS]
        distinct = sorted({vocabulary.setdefault(word, len(vocabulary)) for word in listed})
        return np.array(distinct, dtype=np.int64)

    return Said(of("user"), of("assistant"))


def _fit(
    one: Said, user: np.ndarray, assistant: np.ndarray, *, is_exchanged: bool, total: int
) -> float:
    """log P(as it is) - log P(exchanged), of words that one role says and the other does not."""
    fit = 0.0
    for mine, theirs, sign in ((one.user, one.assistant, 1), (one.assistant, one.user, -1)):
        only = np.setdiff1d(mine, theirs, assume_unique=True)
        # Its own words stand with the side on which the chat was counted.
        in_user = (sign > 0) != is_exchanged
        as_user = (user[only] - in_user + 0.5) / (total + 1)
        as_assistant = (assistant[only] - (not in_user) + 0.5) / (total + 1)
        fit += sign * float(np.log(as_user / as_assistant).sum())
    return fit
