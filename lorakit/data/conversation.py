"""What a row means, before any chat template: a conversation, or plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Choices:
    """The options of a multiple-choice question, which can be scored one against the other.

    Attributes:
        question: the user's turn without the options.
        options: {letter: text} of two or more, in order.
        right: the letter of the right one.
    """

    question: str
    options: Mapping[str, str]
    right: str


@dataclass(frozen=True)
class Conversation:
    """Messages in the order they were said.

    Attributes:
        messages: dicts with `role` and the keys of transformers' chat templates: `content` (a
            string, or a list of `{"type": "text", "text": ...}` parts), `reasoning_content`,
            `tool_calls` (arguments as a mapping), `name`, `tool_call_id`. Absent keys are absent,
            never None.
        weights: one loss weight per message; only those of assistant messages matter.
        tools: JSON schemas of the tools the model may call.
        choices: what the last answer was chosen from, where the row says so. The messages hold all
            of it already: it changes nothing about what is trained.
    """

    messages: tuple[dict[str, Any], ...]
    weights: tuple[float, ...]
    tools: tuple[dict[str, Any], ...] = ()
    choices: Choices | None = None

    @property
    def has_answer(self) -> bool:
        """Whether the last turn says something: a prompt alone ends in an empty one."""
        last = self.messages[-1]
        return last["role"] != "assistant" or last.get("content") != "" or "tool_calls" in last

    @classmethod
    def of(cls, *turns: tuple[str, str]) -> Conversation:
        """A conversation of (role, content) pairs, every weight 1."""
        messages = tuple({"role": role, "content": content} for role, content in turns)
        return cls(messages, (1.0,) * len(messages))


@dataclass(frozen=True)
class PlainText:
    """Text that is trained as it stands, without a chat template."""

    text: str
