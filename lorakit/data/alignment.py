"""Positions in a masked rendering, carried over to the real one."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Sequence
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


def align(segments: Sequence[str | int], pieces: Sequence[Piece], real: str) -> Alignment | None:
    """Match the real rendering against the masked one, piece by piece; None if they differ.

    A piece may stand as it is or escaped as JSON (tool results and arguments).
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
            literal = segments[i + 1]
            assert isinstance(literal, str)
            last = i + 2 == len(segments)
            text = _matching(pieces[segment].text, real, real_at, literal, last)
            if text is None:
                return None
            texts.append((real_at, real_at + len(text)))
            masked_at += len(pieces[segment].marker)
            real_at += len(text)
        masked_starts.append(masked_at)
        real_starts.append(real_at)
    if real_at != len(real):
        return None
    return Alignment(tuple(masked_starts), tuple(real_starts), tuple(texts))


def _matching(text: str, real: str, at: int, literal: str, last: bool) -> str | None:
    for variant in (
        text,
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1],
    ):
        end = at + len(variant)
        if real.startswith(variant, at) and real.startswith(literal, end):
            if not last or end + len(literal) == len(real):
                return variant
    return None


def fill(text: str, pattern: re.Pattern[str], pieces: Sequence[Piece]) -> str:
    """Masked text with the pieces put back as they are."""
    return pattern.sub(lambda match: pieces[int(match.group(1))].text, text)
