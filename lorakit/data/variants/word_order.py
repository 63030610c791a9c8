"""Neighbouring words swapped here and there, as in hasty or translated sentences.

Words are swapped inside a clause only: never over a mark, a line's end, a number or a quotation,
whose own neighbours stay beside them (`5 mg` has to stay `5 mg`). Negations stay where they are.
"""

from __future__ import annotations

import numpy as np
import regex

from lorakit.data.free_text import is_beside_what_stays

NAME = "word_order"
SUMMARY = "in another word order"

RATE = 0.15  # of the pairs of words that may be swapped
_PAIR = regex.compile(r"(?<=^|[ \n])(\p{L}+)( )(\p{L}+)(?=$|[ \n.,;:?!])")
_STAY = frozenset(
    [
        *("no", "not", "never", "without", "nor", "cannot"),
        *("nicht", "kein", "keine", "nie", "ohne"),
        *("ne", "pas", "sans", "sin", "nunca", "non", "senza"),
    ]
)


def vary(pieces: list[str], generator: np.random.Generator, kept: list[str]) -> list[str]:
    """See `lorakit.data.variants.Variant`; at least one pair is swapped where there is one."""
    last = len(pieces) - 1
    pairs = [
        (i, found)
        for i, piece in enumerate(pieces)
        for found in _PAIR.finditer(piece, overlapped=True)
        if _may_swap(found, piece, is_first=i == 0, is_last=i == last)
    ]
    if not pairs:
        return pieces
    draws = generator.random(len(pairs))
    swapped = draws < max(RATE, draws.min() + 1e-12)
    changed, free_until = list(pieces), [len(piece) for piece in pieces]
    for (i, found), swap in reversed(list(zip(pairs, swapped, strict=True))):
        if swap and found.end() <= free_until[i]:  # no word is moved twice
            text = changed[i]
            changed[i] = text[: found.start()] + _swapped(found) + text[found.end() :]
            free_until[i] = found.start()
    return changed


def _may_swap(found: regex.Match, piece: str, *, is_first: bool, is_last: bool) -> bool:
    before, after = found[1], found[3]
    if before.lower() == after.lower() or {before.lower(), after.lower()} & _STAY:
        return False
    return not is_beside_what_stays(found, piece, is_first=is_first, is_last=is_last)


def _swapped(found: regex.Match) -> str:
    """The pair the other way round; the capital that opens a sentence stays in front."""
    before, after = found[1], found[3]
    if before.istitle() and not after.istitle():
        before, after = before.lower(), after.capitalize()
    return f"{after}{found[2]}{before}"
