"""Other words for the same thing, from a reviewed list (`data.synonyms`); in English prose alone.

Only words in small letters change, for the others may be names, and a word changes in all its
places or in none. None changes where one of its places must stay: in code, a quotation or another
stretch that stays, beside one, in a list to choose from (`, often,`), before the colon of a field,
in an idiom, in a clause that is not plainly English. Neither does it where the other word is in the
prompt as well, nor anything in a prompt that asks about words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import regex

from lorakit.data.english import asks_about_words, english_prose
from lorakit.data.free_text import is_beside_what_stays, join_free
from lorakit.data.synonyms import IDIOMS, Pair, pairs

NAME = "synonyms"
SUMMARY = "with synonyms"

RATE = 0.5  # of the words that have one
NEARBY = 40  # characters
_WORD = regex.compile(r"(?<![\p{L}\p{N}'\u2019_-])[a-z]{3,}(?![\p{L}\p{N}'\u2019_-])")
_LETTERS = regex.compile(r"\p{L}+")
_ITEM_BEGINS = regex.compile(
    r"(?:^|[,:;(/\n]|\b(?:or|and|nor|either|between|versus|vs\.?))\s{0,3}$"
)
_ITEM_ENDS = regex.compile(r"\s{0,3}(?:[,;)/\n]|\b(?:or|and|nor|versus|vs)\b|[.?!]?\s{0,3}$)")
_ARTICLE = regex.compile(r"\b(?:a|an)\s+$", regex.IGNORECASE)
_IDIOM = regex.compile(r"\b(?:" + "|".join(map(regex.escape, IDIOMS)) + r")\b", regex.IGNORECASE)
_UNSURE_SOUND = ("h", "u", "eu", "one", "once")  # an hour, a user


def vary(pieces: list[str], generator: np.random.Generator, kept: list[str]) -> list[str]:
    """See `lorakit.data.variants.Variant`; at least one word is changed where there is one."""
    text = join_free(pieces, kept)
    possible = [] if asks_about_words(text) else list(_changeable(text, pieces, kept))
    if not possible:
        return pieces
    draws = generator.random(len(possible))
    chosen = draws < max(RATE, draws.min() + 1e-12)
    instead: dict[str, str] = {}
    for pair, is_chosen in zip(possible, chosen, strict=True):
        instead |= pair.becomes if is_chosen else {}
    return [_WORD.sub(lambda found: instead.get(found[0], found[0]), piece) for piece in pieces]


def _changeable(text: str, pieces: list[str], kept: list[str]) -> Iterator[Pair]:
    """Pairs of which one word occurs, and may be exchanged wherever it does."""
    counts = Counter(word.lower() for word in _LETTERS.findall(text))
    free = _free_places(text, pieces, kept)
    # Parts of identifiers count as well: `studentList`, `is_bigger`.
    stays = " ".join(kept).lower()
    for pair in pairs():
        sides = [{form for form in side if form in counts} for side in pair.sides]
        if bool(sides[0]) == bool(sides[1]):
            continue  # none, or both
        forms = sides[0] or sides[1]
        if all(
            form in pair.becomes
            and form not in stays
            and len(places := free.get(form, [])) == counts[form]
            and all(_fits_article(before, form, pair.becomes[form]) for before in places)
            for form in forms
        ):
            yield pair


def _free_places(text: str, pieces: list[str], kept: list[str]) -> dict[str, list[str]]:
    """{form: what stands before it, for each of its places where it may change}."""
    is_prose = english_prose(pieces, kept)
    idioms = [found.span() for found in _IDIOM.finditer(text)]
    places: dict[str, list[str]] = {}
    offset, last = 0, len(pieces) - 1
    for i, piece in enumerate(pieces):
        for found in _WORD.finditer(piece):
            at = offset + found.start()
            # Only so much is read on either side that long prompts take no longer by the word.
            before = piece[max(0, found.start() - NEARBY) : found.start()]
            after = piece[found.end() : found.end() + NEARBY]
            is_item = bool(_ITEM_BEGINS.search(before) and _ITEM_ENDS.match(after))
            if not (
                is_item
                or after.startswith(":")
                or not is_prose(at)
                or any(begin <= at < end for begin, end in idioms)
                or is_beside_what_stays(found, piece, is_first=i == 0, is_last=i == last)
            ):
                places.setdefault(found[0], []).append(before)
        offset += len(piece) + (len(kept[i]) if i < last else 0)
    return places


def _fits_article(before: str, one: str, other: str) -> bool:
    """Whether no article stands before a word, or one that the other surely takes as well."""
    if not _ARTICLE.search(before):
        return True
    if one.startswith(_UNSURE_SOUND) or other.startswith(_UNSURE_SOUND):
        return False
    return (one[0] in "aeio") == (other[0] in "aeio")
