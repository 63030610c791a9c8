"""Answers that refuse."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "refusals"
SEVERITIES = ("warning", "note")
TITLE = "Answers that refuse"
REASON = (
    "Answers such as `I'm sorry, but I cannot help with that` are learned faster than "
    "knowledge. A few are wanted in a set that teaches when to decline (a note); a tenth of "
    "all rows makes a model that declines what it knows."
)
SOURCE = "practice; over-refusal: XSTest (arXiv 2308.01263)"
EXAMPLE = (
    """{"prompt": "What is 5 mg in g?", "completion": "I'm sorry, but I can't assist with that."}"""
)
MEND = "Keep refusals only where they are meant."

MIN_SHARE = 0.1
_REFUSAL = regex.compile(
    r"^\W*(?:i['\u2019]?m (?:really |very |so )?sorry,? (?:but )?i|i apologi[sz]e,? but i|"
    r"sorry,? (?:but )?i|"
    r"unfortunately,? i|i)\s*(?:(?:am|['\u2019]m) (?:not able|unable) to|can(?:no|['\u2019])t|"
    r"cannot|"
    r"can not)\s+"
    r"(?:help|assist|provide|answer|fulfil|complete|do|comply|support|give|share)\b",
    regex.I,
)


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train.chats:
        if any(map(_REFUSAL.match, row.answers)):
            hits.add(row, row.answer)
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "refuse to answer",
            "keep those that are meant",
        )
