"""Shapes of data.json, as the report reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from lorakit.report.order import Told
from lorakit.report.part import Part


class Lengths(Part):
    """A histogram: bin i holds `edges[i] < length <= edges[i + 1]`."""

    edges: list[int]
    counts: Annotated[list[NonNegativeInt], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_bin_has_a_count(self) -> Lengths:
        if len(self.edges) != len(self.counts) + 1 or sorted(set(self.edges)) != self.edges:
            raise ValueError("edges should rise, and be one more than counts")
        return self


class SetFacts(Part):
    """One set of data.json."""

    read: int
    kept: int
    dropped: int
    tokens: int
    trained_tokens: int
    lengths: Lengths
    longest: int
    max_length: int | None


class FoundFact(Part):
    """One finding of data.json."""

    id: str
    severity: Literal["error", "warning", "note"]
    message: str
    where: str


class TextPiece(Part):
    """The text of a token."""

    text: str
    trained: bool


class LeftOut(Part):
    """Tokens of an example that are not shown."""

    before: int = 0
    after: int = 0


class ShownExample(Part):
    """An example of data.json, token by token."""

    set: str
    pieces: list[TextPiece]
    index: int | None = None
    tokens: int | None = None
    left_out: LeftOut = LeftOut()


class DataFacts(Part):
    """data.json."""

    sets: Annotated[dict[str, SetFacts], Told]
    findings: list[FoundFact]
    examples: list[ShownExample]
