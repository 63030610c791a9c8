"""How whatever makes findings of one id describes them: a rule of the linter, a watcher of runs."""

from __future__ import annotations

from typing import Protocol

from lorakit.data.contract import Severity


class Described(Protocol):
    """What a file that makes findings says of them; a page of docs/rules is made of it.

    Attributes:
        ID: the file's name with hyphens; a recipe silences them by it.
        SEVERITIES: those they may have, the worst first.
        TITLE: what they are, in a few words.
        REASON: why it matters.
        SOURCE: where that is from: a paper's id, a thread's number, or "practice".
        EXAMPLE: a piece of a recipe, of data or of metrics.jsonl that has it.
        MEND: what to do.
    """

    ID: str
    SEVERITIES: tuple[Severity, ...]
    TITLE: str
    REASON: str
    SOURCE: str
    EXAMPLE: str
    MEND: str
