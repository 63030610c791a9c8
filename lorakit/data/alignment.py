"""Positions in a masked rendering, carried over to the real one."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorakit.data.masking import Piece


@dataclass(frozen=True)
class Alignment:
    """How the masked text's segments lie in the real text.

    Attributes:
        masked_starts, real_starts: where each segment starts in either text.
        texts: real (start, end) of every piece of message text, in order.
    """

    masked_starts: tuple[int, ...]
    real_starts: tuple[int, ...]
    texts: tuple[tuple[int, int], ...]

    def real(self, position: int) -> int:
        """The real position of a masked one that is not inside a marker."""
        i = bisect.bisect_right(self.masked_starts, position) - 1
        return self.real_starts[i] + position - self.masked_starts[i]


def align(
    segments: Sequence[str | int],
    pieces: Sequence[Piece],
    real: str,
    control: re.Pattern[str] | None = None,
) -> Alignment | None:
    """Match the real rendering against the masked one, piece by piece; None if they differ.

    A piece may stand as it is or escaped as JSON (tool results and arguments). With `control` given
    (no message text spells a control token), a piece that the template changes ends where the
    template's next text stands that holds one.
    """
    masked_starts, real_starts, texts = [0], [0], []
    masked_at = real_at = 0
    for i, segment in enumerate(segments):
        if isinstance(segment, str):
            if not real.startswith(segment, real_at):
                return None
            masked_at += len(segment)
            real_at += len(segment)
        else:
            end = _piece_end(pieces[segment].text, real, real_at, segments, i + 1, control)
            if end is None:
                return None
            texts.append((real_at, end))
            masked_at += len(pieces[segment].marker)
            real_at = end
        masked_starts.append(masked_at)
        real_starts.append(real_at)
    if real_at != len(real):
        return None
    return Alignment(tuple(masked_starts), tuple(real_starts), tuple(texts))


def fill(segments: Sequence[str | int], pieces: Sequence[Piece]) -> str:
    """The masked text with every piece as it stands in the place of its marker.

    Args:
        segments: literal texts at even places, numbers of pieces at odd ones.
    """
    return "".join([one if isinstance(one, str) else pieces[one].text for one in segments])


def align_filled(segments: Sequence[str | int], pieces: Sequence[Piece]) -> Alignment:
    """How the masked text lies on the one that `fill` made of it."""
    masked_starts, real_starts, texts = [0], [0], []
    masked_at = real_at = 0
    for segment in segments:
        if isinstance(segment, str):
            masked_at += len(segment)
            real_at += len(segment)
        else:
            start, real_at = real_at, real_at + len(pieces[segment].text)
            masked_at += len(pieces[segment].marker)
            texts.append((start, real_at))
        masked_starts.append(masked_at)
        real_starts.append(real_at)
    return Alignment(tuple(masked_starts), tuple(real_starts), tuple(texts))


def _variants(text: str) -> Iterator[str]:
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]


def _piece_end(
    text: str,
    real: str,
    at: int,
    segments: Sequence[str | int],
    following: int,
    control: re.Pattern[str] | None,
) -> int | None:
    """Where a piece that starts at `at` ends, so that the literal segment after it follows."""
    literal = segments[following]
    assert isinstance(literal, str)
    last = following == len(segments) - 1
    for variant in _variants(text):
        end = at + len(variant)
        ends_there = not last or end + len(literal) == len(real)
        if ends_there and real.startswith(variant, at) and real.startswith(literal, end):
            return end
    if control is not None and control.search(literal):
        found = real.find(literal, at)
        return found if found >= 0 else None
    return None
