"""Slips of the fingers: in about one word of nine a letter is left out, doubled, swapped with the
next one, or hit beside its key.

2.3 % of the characters that people type on telephones stay wrong (37,370 people; Palin et al., "How
do people type on mobile devices?", MobileHCI 2019): one in nine words of five letters. The first
letter of a word stays, so that it can still be read, and short words stay whole.
"""

from __future__ import annotations

import numpy as np
import regex

NAME = "typos"
SUMMARY = "with typos"

RATE = 1 / 9  # of the words long enough
_WORD = regex.compile(r"\p{L}{4,}")
# Each key and those beside it on a QWERTY keyboard; other letters are never hit beside.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    key: row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    for row in _ROWS
    for place, key in enumerate(row)
}


def vary(pieces: list[str], generator: np.random.Generator, kept: list[str]) -> list[str]:
    """See `lorakit.data.variants.Variant`; at least one word of those long enough is changed."""
    words = [(i, found) for i, piece in enumerate(pieces) for found in _WORD.finditer(piece)]
    if not words:
        return pieces
    draws = generator.random(len(words))
    slips = draws < max(RATE, draws.min() + 1e-12)
    changed = list(pieces)
    for (i, found), slip in reversed(list(zip(words, slips, strict=True))):
        if slip:
            text = changed[i]
            typed = _mistyped(found[0], generator)
            changed[i] = text[: found.start()] + typed + text[found.end() :]
    return changed


def _mistyped(word: str, generator: np.random.Generator) -> str:
    """The word with one slip after its first letter."""
    at = int(generator.integers(1, len(word) - 1))
    letter, following = word[at], word[at + 1]
    possible = [
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
        word[:at] + following + letter + word[at + 2 :],
    ]
    beside = _BESIDE.get(letter.lower(), "")
    if beside:
        key = beside[int(generator.integers(len(beside)))]
        possible.append(word[:at] + (key.upper() if letter.isupper() else key) + word[at + 1 :])
    others = [typed for typed in possible if typed != word]
    return others[int(generator.integers(len(others)))]
