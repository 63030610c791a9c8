"""Other words for the same thing, from WordNet where it lies on this machine; English alone.

Only words in small letters change, for the others may be names; of a word that stands twice, either
all or none. What stands alone between commas
or beside `or` may be an option to choose from, and what a colon follows the name of a field; both
stay, as do the neighbours of numbers, quotations and code, and parts of phrases (`blood pressure`).
"""

from __future__ import annotations

import numpy as np
import regex

from lorakit.data.free_text import is_beside_what_stays
from lorakit.data.synonyms import Synonyms, synonyms_in
from lorakit.data.wordnet import find_wordnet

NAME = "synonyms"
SUMMARY = "with synonyms"

RATE = 0.5  # of the words that have one
NEARBY = 40  # characters
_WORD = regex.compile(r"(?<![\p{L}\p{N}'\u2019_-])[A-Za-z]{4,}(?![\p{L}\p{N}'\u2019_-])")
_ITEM_BEGINS = regex.compile(
    r"(?:^|[,:;(/\n]|\b(?:or|and|nor|either|between|versus|vs\.?))\s{0,3}$"
)
_ITEM_ENDS = regex.compile(r"\s{0,3}(?:[,;)/\n]|\b(?:or|and|nor|versus|vs)\b|[.?!]?\s{0,3}$)")
_WORD_BEFORE = regex.compile(r"(\p{L}+) $")
_WORD_AFTER = regex.compile(r" (\p{L}+)")
_UNSURE_SOUND = ("h", "u", "eu", "one", "once")  # an hour, a user


def vary(pieces: list[str], generator: np.random.Generator) -> list[str]:
    """See `lorakit.data.variants.Variant`; at least one word is changed where there is one.

    Raises:
        DataError: WordNet is not on this machine, or not whole.
    """
    synonyms = synonyms_in(find_wordnet())
    places, possible = _places(pieces, synonyms)
    words = [word for word, others in possible.items() if others]
    if not words:
        return pieces
    draws = generator.random(len(words))
    chosen = draws < max(RATE, draws.min() + 1e-12)
    instead = {
        word: str(generator.choice(sorted(possible[word])))
        for word, is_chosen in zip(words, chosen, strict=True)
        if is_chosen
    }
    changed = list(pieces)
    for i, found in reversed(places):
        word = synonyms.words[found[0]]
        if word in instead:
            form = synonyms.of[found[0]][instead[word]]
            changed[i] = changed[i][: found.start()] + form + changed[i][found.end() :]
    return changed


def _places(
    pieces: list[str], synonyms: Synonyms
) -> tuple[list[tuple[int, regex.Match]], dict[str, set[str]]]:
    """Where words stand that have synonyms, and {word: those that fit wherever it stands}.

    A word changes everywhere or nowhere: pupils must not become students in one sentence alone.
    """
    places: list[tuple[int, regex.Match]] = []
    possible: dict[str, set[str]] = {}
    last = len(pieces) - 1
    for i, piece in enumerate(pieces):
        for found in _WORD.finditer(piece):
            form = found[0].lower()
            if form not in synonyms.of:
                continue
            fitting: set[str] = set()
            if form == found[0] and not is_beside_what_stays(
                found, piece, is_first=i == 0, is_last=i == last
            ):
                fitting = _fitting(found, piece, synonyms)
            word = synonyms.words[form]
            possible[word] = possible.get(word, fitting) & fitting
            if fitting:
                places.append((i, found))
    return places, possible


def _fitting(found: regex.Match, piece: str, synonyms: Synonyms) -> set[str]:
    """Words whose form may stand where this one does."""
    # Only so much is read on either side that long prompts take no longer by the word.
    before = piece[max(0, found.start() - NEARBY) : found.start()]
    after = piece[found.end() : found.end() + NEARBY]
    if after.startswith(":") or (_ITEM_BEGINS.search(before) and _ITEM_ENDS.match(after)):
        return set()
    previous, following = _WORD_BEFORE.search(before), _WORD_AFTER.match(after)
    if previous and synonyms.is_phrase(previous[1].lower(), found[0]):
        return set()
    if following and synonyms.is_phrase(found[0], following[1].lower()):
        return set()
    others = synonyms.of[found[0]]
    if previous and previous[1].lower() in ("a", "an"):
        return {word for word, form in others.items() if _sounds_alike(found[0], form)}
    return set(others)


def _sounds_alike(one: str, other: str) -> bool:
    """Whether both surely take the same article."""
    if one.startswith(_UNSURE_SOUND) or other.startswith(_UNSURE_SOUND):
        return False
    return (one[0] in "aeio") == (other[0] in "aeio")
