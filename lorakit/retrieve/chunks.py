"""Documents into chunks: whole paragraphs where they fit, otherwise sentences, never mid-word
unless a word is longer than a chunk."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorakit.errors import InputError
from lorakit.retrieve.documents import Document

CHUNK_CHARACTERS = 800  # some 200 tokens of English
OVERLAP_CHARACTERS = 100

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"')\]\u201d]*\s+|(?<=[\u3002\uff01\uff1f])\s*|\n(?=[^\S\n]*[-*#|\d])"
)
_HEADING = re.compile(r"#{1,6} ")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Chunk:
    """A piece of a document.

    Attributes:
        text: as it stands in the document, without white space around it.
        path: of the document's file.
        line: of the file, where the chunk begins (for rows: the row's).
    """

    text: str
    path: str
    line: int

    @property
    def source(self) -> str:
        """`file:line`, to be cited."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class _Unit:
    """What is not torn apart: characters `start` to `end` of the document."""

    start: int
    end: int
    begins_paragraph: bool
    is_heading: bool


def chunks_of(
    documents: Sequence[Document],
    *,
    chunk_characters: int = CHUNK_CHARACTERS,
    overlap_characters: int = OVERLAP_CHARACTERS,
) -> list[Chunk]:
    """Cut documents into chunks, in order.

    Args:
        chunk_characters: the most characters of a chunk.
        overlap_characters: so many of them, at most, are repeated from the chunk before: whole
            sentences, of the same document.

    Raises:
        InputError: an overlap that is not smaller than the half of a chunk.
    """
    if not 0 <= overlap_characters <= chunk_characters // 2 or chunk_characters < 1:
        raise InputError(
            f"chunks of {chunk_characters} characters with {overlap_characters} of overlap; "
            "possible: 1 character or more, and an overlap of 0 to half of that. Change them."
        )
    return [
        chunk
        for document in documents
        for chunk in _cut(document, chunk_characters, overlap_characters)
    ]


def _cut(document: Document, size: int, overlap: int) -> Iterator[Chunk]:
    text, units = document.text, list(_units(document.text, size))
    breaks = [match.start() for match in re.finditer("\n", text)]
    begin = 0
    while begin < len(units):
        end = _end_of_chunk(units, begin, size)
        start = units[begin].start
        line = document.lines[bisect_right(breaks, start - 1)]
        yield Chunk(text[start : units[end - 1].end].strip(), document.path, line)
        begin = _next_begin(units, begin, end, size, overlap)


def _end_of_chunk(units: list[_Unit], begin: int, size: int) -> int:
    """Index after the chunk's last unit."""
    end = begin + 1
    while end < len(units) and units[end].end - units[begin].start <= size:
        end += 1
    if end == len(units):
        return end
    if not units[end].begins_paragraph:  # rather end where a paragraph does, if not much is lost
        for border in range(end - 1, begin, -1):
            if units[border].begins_paragraph:
                if units[border - 1].end - units[begin].start >= size // 2:
                    end = border
                break
    while end - 1 > begin and units[end - 1].is_heading:
        end -= 1
    return end


def _next_begin(units: list[_Unit], begin: int, end: int, size: int, overlap: int) -> int:
    """Index of the next chunk's first unit: `end`, or a little before for the overlap."""
    if end == len(units):
        return end
    first = end
    while (
        first - 1 > begin
        and units[end - 1].end - units[first - 1].start <= overlap
        and units[end].end - units[first - 1].start <= size
    ):
        first -= 1
    return first


def _units(text: str, size: int) -> Iterator[_Unit]:
    for start, end in _between(_PARAGRAPH_END, text, 0, len(text)):
        is_first = True
        for left, right in _between(_SENTENCE_END, text, start, end):
            heading = _HEADING.match(text, left) is not None
            for one, other in _pieces(text, left, right, size):
                yield _Unit(one, other, is_first, heading)
                is_first = False


def _between(border: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The spans between matches of `border` that are more than white space."""
    left = start
    for match in border.finditer(text, start, end):
        # What is no white space in a border, such as a closing quote, belongs to what it closes.
        right = match.start() + len(match[0].rstrip())
        if text[left:right].strip():
            yield left, right
            left = match.end()
    if text[left:end].strip():
        yield left, end


def _pieces(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """A sentence without white space around it, or the pieces of one longer than a chunk."""
    left = right = start
    for word in _WORD.finditer(text, start, end):
        if left == right:  # nothing is waiting
            left = word.start()
        elif word.end() - left > size:
            yield left, right
            left = word.start()
        right = word.end()
        while right - left > size:
            yield left, left + size
            left += size
    if left < right:
        yield left, right
