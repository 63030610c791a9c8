"""Messages with every piece of their text replaced by a marker word.

A template treats the words it is given as opaque, so the rendering of masked messages shows where
it puts each of them. White space at the edges stays (templates trim it), and so do the tags the
template itself looks for (`</think>`): they change what it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["content", "reasoning", "argument", "tool"]
_TAG = re.compile(r"</?[A-Za-z_|][^<>\s'\"{}%]*>")
_SPEAKERS = ("name", "tool_call_id")


class Piece(NamedTuple):  # a dataclass takes twice as long to make, and every row has some
    """A run of text of one message (`owner` is its index; -1 for the tool schemas)."""

    marker: str
    text: str
    owner: int
    kind: Kind


@dataclass(frozen=True)
class Masked:
    """Messages and tools whose text is marker words, and what the markers stand for."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    pieces: tuple[Piece, ...]


class Masker:
    """Masks conversations for one template.

    Args:
        source: the template; tags it spells are left in place, control tokens are not.
        control: matches every control token.
        nonce: what markers begin with; must not occur in the template or the text.
    """

    def __init__(self, source: str, control: re.Pattern[str], nonce: str) -> None:
        found = {tag for tag in _TAG.findall(source) if not control.search(tag)}
        tags = sorted(found, key=len, reverse=True)
        self._opens_tag = "<" if tags else None
        self.tags = re.compile(f"({'|'.join(map(re.escape, tags))})" if tags else "((?!))")
        self.nonce = nonce
        self.pattern = re.compile(f"{nonce}(\\d+)z")

    def mask(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        *,
        mask_tools: bool,
    ) -> Masked:
        """Mask shaped messages; tool descriptions only if asked (their text spells a control
        token)."""
        pieces: list[Piece] = []

        def masker(owner: int, kind: Kind) -> Callable[[str], str]:
            return lambda text: self._mask_text(text, owner, kind, pieces)

        masked = [self._mask_message(message, i, masker) for i, message in enumerate(messages)]
        shown = (
            [_map_descriptions(tool, masker(-1, "tool")) for tool in tools] if mask_tools else tools
        )
        return Masked(masked, list(shown), tuple(pieces))

    def mask_texts(self, messages: Sequence[dict[str, Any]]) -> Masked:
        """As `mask`, for messages of a role and a string, which most are; no tools."""
        pieces: list[Piece] = []
        masked = [
            {**message, "content": self._mask_text(message["content"], i, "content", pieces)}
            for i, message in enumerate(messages)
        ]
        return Masked(masked, [], tuple(pieces))

    def _mask_message(
        self,
        message: dict[str, Any],
        owner: int,
        masker: Callable[[int, Kind], Callable[[str], str]],
    ) -> dict[str, Any]:
        masked = dict(message)
        if "content" in message:
            masked["content"] = _map_content(message["content"], masker(owner, "content"))
        if "reasoning_content" in message:
            masked["reasoning_content"] = masker(owner, "reasoning")(message["reasoning_content"])
        if "tool_calls" in message:
            masked["tool_calls"] = [
                _map_call(call, masker(owner, "argument")) for call in message["tool_calls"]
            ]
        return masked

    def _mask_text(self, text: str, owner: int, kind: Kind, pieces: list[Piece]) -> str:
        if self._opens_tag is None or self._opens_tag not in text:
            return self._mask_part(text, owner, kind, pieces)
        parts = self.tags.split(text)
        for i in range(0, len(parts), 2):
            parts[i] = self._mask_part(parts[i], owner, kind, pieces)
        return "".join(parts)

    def _mask_part(self, part: str, owner: int, kind: Kind, pieces: list[Piece]) -> str:
        core = part.strip()
        if not core:
            return part
        marker = f"{self.nonce}{len(pieces)}z"
        pieces.append(Piece(marker, core, owner, kind))
        if len(core) == len(part):
            return marker
        head = part[: len(part) - len(part.lstrip())]
        return head + marker + part[len(head) + len(core) :]


def _map_content(content: Any, change: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return change(content)
    return [{**part, "text": change(part["text"])} for part in content]


def _map_call(call: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    if isinstance(arguments, str):  # JSON text: the template shows it as it is
        changed: Any = change(arguments)
    else:
        changed = _map_strings(arguments, change)
    return {**call, "function": {**function, "arguments": changed}}


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value


def _map_descriptions(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {
            key: change(item)
            if key == "description" and isinstance(item, str)
            else _map_descriptions(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_map_descriptions(item, change) for item in value]
    return value
