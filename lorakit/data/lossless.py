"""What a chat template does to the text it is given: leaves out, trims, or doubles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.masking import Masked, Piece
from lorakit.data.skeleton import Skeleton

Note = tuple[str, str]  # (finding id, detail)


def dropped_notes(
    skeleton: Skeleton, masked: Masked, conversation: Conversation, text: str
) -> list[Note]:
    """Findings on text that the template leaves out or trims."""
    notes = []
    for i, piece in enumerate(masked.pieces):
        if i not in skeleton.shown:
            thinking = piece.kind == "reasoning" or _is_thinking(piece, conversation)
            finding = "thinking-dropped" if thinking else "content-dropped"
            notes.append((finding, f"{piece.text[:60]!r} of message {piece.owner}"))
    for message in masked.messages:
        content = message.get("content")
        if message["role"] != "tool" and isinstance(content, str) and _trimmed(content, skeleton):
            notes.append(("whitespace-trimmed", f"a {message['role']} message"))
    names = [tool.get("function", tool).get("name", "") for tool in conversation.tools]
    if any(name and name not in text for name in names):
        notes.append(("tools-dropped", f"tools {names}"))
    return notes


def doubled_notes(
    message: dict[str, Any], text: str, spans: Callable[[], Sequence[tuple[int, int]]]
) -> list[Note]:
    """A finding if the turn's own think tags stand beside some that the template added.

    Args:
        spans: tells the turn's trained characters in the text.
    """
    content = message.get("content")
    own = content.count("</think>") if isinstance(content, str) else 0
    if own and sum(text[start:end].count("</think>") for start, end in spans()) > own:
        return [("thinking-doubled", "")]
    return []


def _trimmed(content: str, skeleton: Skeleton) -> bool:
    core = content.strip()
    return core != content and core in skeleton.text and content not in skeleton.text


def _is_thinking(piece: Piece, conversation: Conversation) -> bool:
    """A piece of an assistant's content that stands before its `</think>`."""
    message = conversation.messages[piece.owner] if piece.owner >= 0 else {}
    content = message.get("content", "")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return False
    return piece.text in content.partition("</think>")[0] and "</think>" in content
