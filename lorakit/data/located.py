"""A conversation on its way to tokens: shaped for the template, then located in its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorakit.data.alignment import Alignment
from lorakit.data.boundaries import Boundaries
from lorakit.data.conversation import Conversation
from lorakit.data.lossless import Note
from lorakit.data.masking import Masked
from lorakit.data.skeleton import Skeleton, Turn
from lorakit.errors import DataError

# Arguments of a rendering: messages, tools, with the generation prompt.
Asked = tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]], bool]


@dataclass(frozen=True)
class Shaped:
    """A conversation as the template takes it.

    Attributes:
        conversation: without a system message of its own where the template refuses one.
        messages: its messages in the shape that the template reads.
        turns: indices of the messages that are trained.
        notes: what is to be said so far.
    """

    conversation: Conversation
    messages: list[dict[str, Any]]
    turns: list[int]
    notes: list[Note]

    def whole(self) -> Asked:
        """The rendering of the whole conversation."""
        return self.messages, self.conversation.tools, False

    def prompt(self) -> Asked | None:
        """The rendering of what the model is given to make the last trained turn; None if nothing
        stands before it, or no turn is trained."""
        last = self.turns[-1] if self.turns else 0
        return (self.messages[:last], self.conversation.tools, True) if last else None


@dataclass(frozen=True)
class Shape:
    """What conversations of one shape have in common: those whose masked messages are equal.

    Attributes:
        skeleton: their masked rendering.
        boundaries: of its spans among token ids, if they can be told.
        keeps_all: nothing that messages say is left out or trimmed; tools apart.
        stop_ids: tokens that end trained turns.
        fault: why they cannot be trained.
    """

    skeleton: Skeleton
    boundaries: Boundaries | None
    keeps_all: bool
    stop_ids: tuple[int, ...]
    fault: DataError | None


@dataclass(frozen=True)
class Located:
    """How the text of a conversation is made up.

    Attributes:
        shape: of the conversation.
        masked: its messages, masked.
        align: tells how the skeleton lies on the text; asked once, by the few who need it.
        spelled: characters of messages that spell control tokens, wholly or in part.
    """

    shape: Shape
    masked: Masked
    align: Callable[[], Alignment]
    spelled: list[tuple[int, int]]

    @cached_property
    def alignment(self) -> Alignment:
        """How the skeleton lies on the text."""
        return self.align()

    def spans(self, turn: Turn) -> list[tuple[int, int]]:
        """The turn's trained characters in the text."""
        real = self.alignment.real
        return [(real(start), real(end)) for start, end in turn.spans]


def fault_of(skeleton: Skeleton, masked: Masked) -> DataError | None:
    """Why the first turn that cannot be trained cannot, or of which the template drops a part."""
    for turn in skeleton.turns:
        try:
            _check_turn(turn, skeleton, masked)
        except DataError as error:
            return error
    return None


def _check_turn(turn: Turn, skeleton: Skeleton, masked: Masked) -> None:
    own = [i for i, piece in enumerate(masked.pieces) if piece.owner == turn.message]
    if own and not any(i in skeleton.shown for i in own):
        raise DataError(f"assistant turn {turn.message}: the chat template drops all of its text")
    if turn.fault:
        raise DataError(f"assistant turn {turn.message}: {turn.fault}")
    calls = masked.messages[turn.message].get("tool_calls", ())
    written = "".join(skeleton.text[a:b] for a, b in turn.spans)
    for call in calls:
        if turn.spans and call["function"]["name"] not in written:
            raise DataError(
                f"assistant turn {turn.message}: the chat template drops its tool calls; give a "
                "chat_template that writes them"
            )


def strings_in(value: object) -> list[str]:
    """Every string of a JSON value, keys included."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            found += [key for key in item if isinstance(key, str)]
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
    return found
