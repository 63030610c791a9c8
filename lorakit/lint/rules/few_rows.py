"""Fewer than 200 training examples."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "few-rows"
SEVERITIES = ("warning",)
TITLE = "Fewer than 200 training examples"
REASON = (
    "With fewer than about 200 good examples a prompt with examples usually does as well, and "
    "what is measured says little. Plain text is counted by its tokens (a book may be one "
    "row)."
)
SOURCE = "practice"
EXAMPLE = "data: {train: fifty_rows.jsonl}"
MEND = "Collect more rows, or try a prompt with examples first."

MIN_ROWS = 200
MIN_TEXT_TOKENS = 100_000


def find(facts: Facts) -> Iterator[Finding]:
    kept = facts.sets.train.kept
    is_text = all(row.is_plain for row in facts.train)
    enough_text = is_text and int(facts.sets.train.examples.lengths.sum()) >= MIN_TEXT_TOKENS
    if kept < MIN_ROWS and not enough_text:
        message = (
            f"train: {kept} {'row' if kept == 1 else 'rows'}: under about {MIN_ROWS} good "
            "examples a "
            "prompt with examples in it usually does as well; collect more, or try that first"
        )
        yield Finding(ID, "warning", message, "data.train")
