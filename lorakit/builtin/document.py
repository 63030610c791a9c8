"""What the pretraining corpus is made of: plain text, or a chat in the model's own template."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One document: `text`, or `turns` of (role, content); exactly one of them is not empty.

    Attributes:
        origin: what it was made from (a topic, a row). All documents of one origin are trained, or
            none is.
    """

    text: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    origin: str = ""

    def content(self) -> str:
        """All its text, without the turn tokens."""
        return self.text or "\n".join(content for _, content in self.turns)


def chat(question: str, answer: str, *, system: str = "", origin: str = "") -> Document:
    """A chat of one question and one answer, with a system turn where `system` is given."""
    turns = (("user", question), ("assistant", answer))
    return Document(turns=(("system", system), *turns) if system else turns, origin=origin)
