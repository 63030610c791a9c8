"""Answers that break off."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits
from lorakit.lint.words import is_closed

ID = "answers-break-off"
SEVERITIES = ("warning",)
TITLE = "Answers that break off"
REASON = (
    "Where most answers end in a full stop and some in the middle of a word, or after a word "
    "that no sentence of the set ends with, those were cut, wherever the cut was (answers-cut "
    "looks for cuts at one length): the model learns to stop in mid-sentence. No dictionary is "
    "asked: a piece is no word of these answers but begins one, so it serves any language that "
    "writes spaces between words. A list or title without a full stop is no break. What most "
    "answers sign off with is left out of account: whoever is cut before it lacks it."
)
SOURCE = "practice; answers generated with too small a limit of new tokens"
EXAMPLE = '{"prompt": "...", "completion": "Give one tablet. The dose depends on the wei"}'
MEND = "Remove those rows, or make their answers again without a limit."

MIN_ROWS, MIN_SHARE = 5, 0.02
MIN_LENGTH = 40  # characters; below it answers are labels
MOST = 0.5  # of the answers end in a closing mark, or its absence says nothing
OF_OPEN_ENDS = 0.3  # of the answers without one: else they are lists and the like
FREQUENT = 20  # times within answers, and never at an end: nothing ends with that word
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]+")
_LAST = regex.compile(r"\p{L}[\p{L}\p{M}]+\Z")
_CLOSED = regex.compile(r"\p{L}[\p{L}\p{M}]+(?=[^\p{L}\p{N}\s]|\s*\n|\s*\Z)")
MAX_ROWS, MAX_CHARACTERS = 3_000, 4_000  # read of a set, of the end of an answer
MAX_LAST = 200  # characters of a last word: a search begins at the front of what it is given
MAX_SIGN_OFF_LINES, MAX_SIGN_OFF_WORDS, MAX_SIGN_OFF = 3, 12, 80  # the last: characters
MAX_NAME_WORDS = 2  # behind a sign-off, other ones under each answer
_BLANK = regex.compile(r"\n\s+")


def find(facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.train.chats if len(row.answer) >= MIN_LENGTH]
    rows = rows[:: max(1, -(-len(rows) // MAX_ROWS))]
    texts = [row.answer for row in rows]
    if sum(map(is_closed, texts)) < MOST * len(rows):
        texts = _without_sign_off(texts)
    open_ends = [place for place, text in enumerate(texts) if _last_word(text)]
    if len(open_ends) < MIN_ROWS or sum(map(is_closed, texts)) < MOST * len(rows):
        return
    hits = Hits(facts.train, len(rows))
    for place in _broken(texts, open_ends):
        hits.add(rows[place], f"…{texts[place][-40:]}")
    if (
        hits.count >= MIN_ROWS
        and hits.share >= MIN_SHARE
        and hits.count >= OF_OPEN_ENDS * len(open_ends)
    ):
        yield hits.finding(
            ID,
            "warning",
            "break off in the middle of a word or sentence",
            "the model learns to stop there; remove them or make them again",
        )


def _without_sign_off(texts: Sequence[str]) -> list[str]:
    """The answers up to what most of them sign off with: a line near their end such as `Kind
    regards,` with all below it, or their last words, of which the very last may be any name."""
    kept = [_BLANK.sub("\n", text.rstrip()) for text in texts]
    least = max(1.0, MOST * len(texts))
    for place in range(MAX_SIGN_OFF_LINES, 0, -1):
        parts = [text.rsplit("\n", place) for text in kept]
        line, count = _commonest(parts, place)
        if count >= least and not line.endswith(":"):  # nor the heading of a list
            return _up_to(line, parts, place, kept)
    start, opening = 0, ""
    for place in range(1, MAX_SIGN_OFF_WORDS + 1):
        word, count = _commonest([text.rsplit(None, place) for text in kept], place)
        if count >= least:
            start, opening = place, word
        elif start or place > MAX_NAME_WORDS:
            break
    if not start:
        return kept
    return _up_to(opening, [text.rsplit(None, start) for text in kept], start, kept)


def _commonest(parts: Iterable[Sequence[str]], place: int) -> tuple[str, int]:
    """Of texts in parts, the last `place` one by one, what most have at that place."""
    found = Counter(one[1] for one in parts if len(one) > place)
    return max(found.most_common(1), default=("", 0))


def _up_to(
    opening: str, parts: Iterable[Sequence[str]], place: int, texts: Sequence[str]
) -> list[str]:
    """The texts without what begins with `opening` at that place, where it is short."""
    return [
        one[0].rstrip()
        if len(one) > place and one[1] == opening and len(text) - len(one[0]) <= MAX_SIGN_OFF
        else text
        for one, text in zip(parts, texts, strict=True)
    ]


def _broken(texts: Sequence[str], open_ends: Sequence[int]) -> Iterator[int]:
    """Answers whose last word is the beginning of another, or one that no sentence ends with."""
    within: Counter[str] = Counter()
    ending: Counter[str] = Counter()
    for text in texts:
        within.update(_WORD.findall(text[-MAX_CHARACTERS:]))
        ending.update(_CLOSED.findall(text[-MAX_CHARACTERS:]))
    lasts = [_last_word(texts[place]) for place in open_ends]
    at_end = Counter(lasts)
    known = sorted(within)
    per_word = len(open_ends) / within.total()
    for place, word in zip(open_ends, lasts, strict=True):
        elsewhere = within[word] - at_end[word]
        if elsewhere == 0:
            following = known[bisect_right(known, word) :][:1]
            is_broken = bool(following) and following[0].startswith(word)
        else:
            # As often at the end as a cut anywhere makes it: not the name under a letter.
            by_a_cut = at_end[word] <= 2 + 3 * per_word * elsewhere
            is_broken = elsewhere >= FREQUENT and ending[word] == at_end[word] and by_a_cut
        if is_broken:
            yield place


def _last_word(answer: str) -> str:
    """The word that an answer ends with; empty where it ends with something else."""
    found = _LAST.search(answer.rstrip()[-MAX_LAST:])
    return "" if found is None else found[0]
