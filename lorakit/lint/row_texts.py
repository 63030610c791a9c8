"""What rows say, read once for all rules: a bounded sample of a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.prepare import Prepared
from lorakit.plan.libraries import MAX_ROWS_READ

# Of their text, about, in characters: what bounds the memory.
MAX_CHARACTERS = 100_000_000
CHARACTERS_PER_TOKEN = 5


@dataclass(frozen=True)
class RowText:
    """What one row says.

    Attributes:
        index: of the row among the kept ones of its set.
        where: `file:line`.
        turns: (role, text) of every message; plain text is one turn of role `text`.
        trained: whether each of the turns is trained.
        thinking: the reasoning_content of all turns.
        has_calls: whether a turn calls tools, and may be empty otherwise.
    """

    index: int
    where: str
    turns: tuple[tuple[str, str], ...]
    trained: tuple[bool, ...]
    thinking: str = ""
    has_calls: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is text without turns."""
        return self.turns[0][0] == "text"

    @cached_property
    def answer(self) -> str:
        """The last trained turn; of plain text all of it, without one the empty text."""
        for (_, text), trained in zip(reversed(self.turns), reversed(self.trained), strict=True):
            if trained:
                return text
        return ""

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Every trained turn of a conversation."""
        return () if self.is_plain else self.trained_texts

    @cached_property
    def trained_texts(self) -> tuple[str, ...]:
        """Every trained turn; all of a plain text."""
        pairs = zip(self.turns, self.trained, strict=True)
        return tuple(text for (_, text), trained in pairs if trained)

    @cached_property
    def prompt(self) -> str:
        """Everything before the last trained turn, a line each; nothing before plain text."""
        last = max((i for i, trained in enumerate(self.trained) if trained), default=0)
        return "\n".join(text for _, text in self.turns[:last])

    @cached_property
    def question(self) -> str:
        """The last user turn."""
        return next((text for role, text in reversed(self.turns) if role == "user"), "")

    @cached_property
    def system(self) -> str:
        """The system message, if there is one."""
        return next((text for role, text in self.turns if role in ("system", "developer")), "")

    @cached_property
    def text(self) -> str:
        """All turns."""
        return "\n".join(text for _, text in self.turns)


@dataclass(frozen=True)
class Sample:
    """Rows of one set.

    Attributes:
        name: of the set.
        rows: those that were read, in order.
        total: rows of the set.
        repeats: float64 (total,), how often each is seen per epoch.
    """

    name: str
    rows: tuple[RowText, ...]
    total: int
    repeats: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RowText]:
        return iter(self.rows)

    @property
    def is_whole(self) -> bool:
        """Whether every row was read."""
        return len(self.rows) == self.total

    @cached_property
    def chats(self) -> tuple[RowText, ...]:
        """The rows that are conversations."""
        return tuple(row for row in self.rows if not row.is_plain)


def sample_of(name: str, prepared: Prepared, *, max_rows: int = MAX_ROWS_READ) -> Sample:
    """Rows of a set, evenly spread, as many as the limits allow."""
    total = len(prepared.meanings)
    characters = CHARACTERS_PER_TOKEN * float(prepared.examples.lengths.mean())
    wanted = min(total, max_rows, max(1, int(MAX_CHARACTERS / characters)))
    indices = np.unique(np.linspace(0, total - 1, wanted).round().astype(np.int64))
    rows = tuple(
        row_text(int(i), prepared.meanings[i].location, prepared.meanings[i].conversation)
        for i in indices
    )
    return Sample(name, rows, total, prepared.repeats)


def row_text(index: int, where: str, meaning: Conversation | PlainText) -> RowText:
    """What a row says."""
    if isinstance(meaning, PlainText):
        return RowText(index, where, (("text", meaning.text),), (True,))
    turns = tuple((message["role"], _content(message)) for message in meaning.messages)
    trained = tuple(
        message["role"] == "assistant" and weight > 0
        for message, weight in zip(meaning.messages, meaning.weights, strict=True)
    )
    thinking = "\n".join(
        m["reasoning_content"] for m in meaning.messages if "reasoning_content" in m
    )
    calls = any("tool_calls" in message for message in meaning.messages)
    return RowText(index, where, turns, trained, thinking, calls)


def _content(message: dict[str, Any]) -> str:
    content: str | list[dict[str, Any]] = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
