"""Dropout that does not fit the number of rows."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "dropout-against-rows"
SEVERITIES = ("warning", "note")
TITLE = "Dropout that does not fit the number of rows"
REASON = (
    "Dropout on the low-rank branch holds against learning rows by heart: 0.1 to 0.2 under "
    "500 rows, 0.05 to 0.1 for 1,000 to 100,000. Half of the inputs dropped, or more, starves "
    "an adapter that is small already."
)
SOURCE = "practice; LoRA (arXiv 2106.09685), QLoRA (arXiv 2305.14314): 0.05 to 0.1"
EXAMPLE = "adapter: {lora_dropout: 0.5}"
MEND = "Set adapter.lora_dropout to 0.05; to 0.1 or 0.2 under 500 rows."

FEW_ROWS, MANY_ROWS = 500, 100_000
STARVES = 0.4


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # of answers that are trained
        return
    dropout, rows = facts.recipe.adapter.lora_dropout, facts.num_rows
    if facts.recipe.adapter.path is not None:
        return
    if dropout >= STARVES:
        severity, advice = "warning", "so much starves the adapter; 0.05 to 0.1 are usual"
    elif rows < FEW_ROWS and dropout < 0.05:
        severity, advice = (
            "note",
            f"under {FEW_ROWS} rows 0.1 to 0.2 hold against learning by heart",
        )
    elif (rows >= FEW_ROWS and dropout > 0.2) or (rows > MANY_ROWS and dropout > 0.1):
        severity, advice = "note", "so many rows need less: 0.05 is usual"
    else:
        return
    message = f"lora_dropout {dropout:g} with {rows:,.0f} rows: {advice}"
    yield Finding(ID, severity, message, "adapter.lora_dropout")  # type: ignore[arg-type]
