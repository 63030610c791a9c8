"""Placeholders where an answer should be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "placeholder-answers"
SEVERITIES = ("warning", "note")
TITLE = "Placeholders where an answer should be"
REASON = (
    "`nan`, `None`, `N/A` or `TODO` in the answer column come from tables with empty cells: "
    "the model learns to say them. Empty answers themselves are refused by the row formats. "
    "Told only where other answers are texts; among labels, none may be one."
)
SOURCE = "practice: empty cells of CSV files and spreadsheets"
EXAMPLE = '{"prompt": "What helps against asthma?", "completion": "nan"}'
MEND = "Remove those rows, or fill them."

MIN_SHARE = 0.01
TEXT_WORDS = 4  # the median answer has more words, or it is a label
PLACEHOLDERS = frozenset(
    {
        "nan",
        "none",
        "null",
        "n/a",
        "na",
        "nil",
        "-",
        "--",
        "...",
        "todo",
        "tbd",
        "<noinput>",
        "undefined",
    }
)


def find(facts: Facts) -> Iterator[Finding]:
    rows = facts.train.chats
    if not rows or np.median([len(row.answer.split()) for row in rows]) < TEXT_WORDS:
        return
    hits = Hits(facts.train, len(rows))
    for row in rows:
        if row.answer.strip().casefold() in PLACEHOLDERS:
            hits.add(row, row.answer)
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "have a placeholder for an answer",
            "the model learns to say it; remove or fill them",
        )
