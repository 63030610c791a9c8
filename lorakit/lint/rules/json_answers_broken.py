"""Answers that are JSON, but for some."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "json-answers-broken"
SEVERITIES = ("warning",)
TITLE = "Answers that are JSON, but for some"
REASON = (
    "Where answers are JSON, those that cannot be parsed teach to write broken JSON. Told where "
    "nearly all answers begin with { or [ and most of them are whole; where most are not, it "
    "is taken for another notation."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "...", "completion": "{"dose": 5"}   # the others are whole'
MEND = "Repair or remove those rows."

MEANT = 0.8
MOST = 0.5  # must parse for JSON to be what is meant
MIN_ROWS = 20


def find(facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.train.chats if row.answer.strip()[:1] in ("{", "[")]
    if len(rows) < MIN_ROWS or len(rows) < MEANT * len(facts.train):
        return
    hits = Hits(facts.train, len(rows))
    for row in rows:
        try:
            json.loads(row.answer)
        except ValueError as error:
            hits.add(row, str(error))
        except RecursionError:  # of brackets that open without end
            hits.add(row, "nested too deeply to be parsed")
    if 0 < hits.share < 1 - MOST:
        yield hits.finding(ID, "warning", "are JSON that cannot be parsed", "repair or remove them")
