"""The answer repeats the question."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits
from lorakit.lint.words import words

ID = "answer-repeats-question"
SEVERITIES = ("warning", "note")
TITLE = "The answer repeats the question"
REASON = (
    "A row whose answer is its question trains the model to echo. It happens when a column is "
    "taken twice."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "What is asthma?", "completion": "What is asthma?"}'
MEND = "Check data.columns; remove rows that only echo."

MIN_SHARE, MIN_WORDS = 0.01, 4


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train.chats:
        said = row.answer.strip()
        if said and said == row.question.strip() and len(words(said)) >= MIN_WORDS:
            hits.add(row, said)
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "answer with the question itself",
            "check data.columns",
        )
