"""Answers cut at one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText
from lorakit.lint.told import Hits
from lorakit.lint.words import is_closed

ID = "answers-cut"
SEVERITIES = ("warning",)
TITLE = "Answers cut at one length"
REASON = (
    "If many answers end in mid-sentence at the same length, in characters or in tokens, "
    "whoever wrote the file cut them there: the model learns to stop in mid-sentence. lorakit "
    "itself never cuts a row (too long ones are left out: rows-too-long)."
)
SOURCE = "practice; silent truncation: trl#3449, unsloth#2904 (clipped at 1,024)"
EXAMPLE = '{"prompt": "...", "completion": "The dose depends on the weight of the pat"}'
MEND = "Make the file again without the limit."

MIN_ROWS, MIN_SHARE = 5, 0.02
MIN_LENGTH = 40  # characters; below it answers are labels
ENOUGH_SHAPES = 16
_LETTER, _DIGIT = regex.compile(r"\p{L}"), regex.compile(r"\p{N}")


def find(facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.train.chats if len(row.answer) >= MIN_LENGTH]
    if len(rows) < MIN_ROWS:
        return
    trained = facts.sets.train.examples.trained_lengths
    tokens = np.array([trained[row.index] for row in rows])
    characters = np.array([len(row.answer) for row in rows])
    for lengths, unit in ((characters, "characters"), (tokens, "trained tokens")):
        cut = _at_the_limit(rows, lengths)
        if len(cut) >= MIN_ROWS and len(cut) >= MIN_SHARE * len(rows):
            hits = Hits(facts.train, len(rows))
            for row in cut:
                hits.add(row, f"…{row.answer[-40:]}")
            limit = int(lengths.max())
            yield hits.finding(
                ID,
                "warning",
                f"end in mid-sentence at {limit} {unit}, and no answer is longer",
                "the file was cut there; make it again without that limit",
            )
            return


def _at_the_limit(rows: Sequence[RowText], lengths: np.ndarray) -> list[RowText]:
    """The rows whose answers have the greatest length and do not end, if that length is a limit."""
    limit = lengths.max()
    # By words or after stripping, a cut text may be a little shorter.
    at_limit = lengths >= limit - max(1, 0.01 * limit)
    just_below = (lengths >= 0.9 * limit) & ~at_limit
    if at_limit.sum() <= 2 * just_below.sum():
        return []  # lengths thin out, as those of whole answers do
    cut = [
        row
        for row, is_there in zip(rows, at_limit, strict=True)
        if is_there and not is_closed(row.answer)
    ]
    if len(cut) < 0.5 * at_limit.sum() or len({_shape(row) for row in cut}) < 0.5 * min(
        len(cut), ENOUGH_SHAPES
    ):
        return []
    return cut


def _shape(row: RowText) -> str:
    """How an answer ends: alike for answers of one form, such as dates or codes of one length."""
    return _DIGIT.sub("0", _LETTER.sub("a", row.answer.rstrip()[-12:]))
