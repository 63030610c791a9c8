"""Fewer than 200 training examples."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "few-rows"
SEVERITIES = ("warning", "note")
TITLE = "Fewer than 200 training examples"
REASON = (
    "With fewer than about 200 good examples a prompt with examples usually does as well, and "
    "what is measured says little. From 100 on it is a note where a validation or in-domain "
    "set will show whether it was enough. Plain text is counted by its tokens (a book may be "
    "one row)."
)
SOURCE = "practice"
EXAMPLE = "data: {train: fifty_rows.jsonl}"
MEND = "Collect more rows, or try a prompt with examples first."

MIN_ROWS, VERY_FEW_ROWS = 200, 100
MIN_TEXT_TOKENS = 100_000


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # of answers that are trained
        return
    kept = facts.sets.train.kept
    is_text = all(row.is_plain for row in facts.train)
    enough_text = is_text and int(facts.sets.train.examples.lengths.sum()) >= MIN_TEXT_TOKENS
    if kept < MIN_ROWS and not enough_text:
        is_measured = facts.sets.validation is not None or "in_domain" in facts.sets.evaluation
        severity = "note" if kept >= VERY_FEW_ROWS and is_measured else "warning"
        message = (
            f"train: {kept} {'row' if kept == 1 else 'rows'}: under about {MIN_ROWS} good "
            "examples a "
            "prompt with examples in it usually does as well; collect more, or try that first"
        )
        yield Finding(ID, severity, message, "data.train")  # type: ignore[arg-type]
