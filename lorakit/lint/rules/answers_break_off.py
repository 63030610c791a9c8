"""Answers that break off."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText
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
    "writes spaces between words. A list or title without a full stop is no break."
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


def find(facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.train.chats if len(row.answer) >= MIN_LENGTH]
    rows = rows[:: max(1, -(-len(rows) // MAX_ROWS))]
    open_ends = [row for row in rows if _last_word(row.answer)]
    closed = sum(is_closed(row.answer) for row in rows)
    if len(open_ends) < MIN_ROWS or closed < MOST * len(rows):
        return
    hits = Hits(facts.train, len(rows))
    for row in _broken(rows, open_ends):
        hits.add(row, f"…{row.answer[-40:]}")
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


def _broken(rows: Sequence[RowText], open_ends: Sequence[RowText]) -> Iterator[RowText]:
    """Rows whose last word is the beginning of another, or one that no sentence ends with."""
    within: Counter[str] = Counter()
    ending: Counter[str] = Counter()
    for row in rows:
        text = row.answer[-MAX_CHARACTERS:]
        within.update(_WORD.findall(text))
        ending.update(_CLOSED.findall(text))
    lasts = [_last_word(row.answer) for row in open_ends]
    at_end = Counter(lasts)
    known = sorted(within)
    per_word = len(open_ends) / within.total()
    for row, word in zip(open_ends, lasts, strict=True):
        elsewhere = within[word] - at_end[word]
        if elsewhere == 0:
            following = known[bisect_right(known, word) :][:1]
            is_broken = bool(following) and following[0].startswith(word)
        else:
            # As often at the end as a cut anywhere makes it: not the name under a letter.
            by_a_cut = at_end[word] <= 2 + 3 * per_word * elsewhere
            is_broken = elsewhere >= FREQUENT and ending[word] == at_end[word] and by_a_cut
        if is_broken:
            yield row


def _last_word(answer: str) -> str:
    """The word that an answer ends with; empty where it ends with something else."""
    found = _LAST.search(answer.rstrip()[-MAX_LAST:])
    return "" if found is None else found[0]
