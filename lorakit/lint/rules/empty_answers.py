"""Empty answers are trained."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "empty-answers"
SEVERITIES = ("warning", "note")
TITLE = "Empty answers are trained"
REASON = (
    "A row whose answer is empty trains the model to stop at once. A percent of them is "
    "enough to see it in chat."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "What is asthma?", "completion": ""}'
MEND = "Remove those rows, or fill them."

MIN_SHARE = 0.01


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train:
        if (
            not row.thinking
            and not row.has_calls
            and any(not answer.strip() for answer in row.answers)
        ):
            hits.add(row, row.question)
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "train an empty answer",
            "the model learns to stop at once; remove or fill them",
        )
