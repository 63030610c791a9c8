"""Too few or too many epochs for the number of rows."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "epochs-against-rows"
SEVERITIES = ("warning", "note")
TITLE = "Too few or too many epochs for the number of rows"
REASON = (
    "Little data need several passes (3 to 5 under 2,000 rows), much data one or two (from "
    "50,000 on); far more passes learn the rows by heart. Between the two, more than five are "
    "told. The limits for a warning are wider than the advice, since the best number depends on "
    "the data: under one and a half epochs with few rows, over ten with up to 50,000 rows, over "
    "three with more."
)
SOURCE = (
    "practice; QLoRA (arXiv 2305.14314) trained sets of 10,000 to 50,000 rows for one to "
    "three epochs"
)
EXAMPLE = """\
data: {train: five_hundred_rows.jsonl}
train: {num_train_epochs: 1}"""
MEND = (
    "Set train.num_train_epochs to 3 to 5 under 2,000 rows, to 1 or 2 from 50,000 rows on; "
    "with a validation set, early_stopping_patience ends it at the right time."
)

FEW_ROWS, MANY_ROWS = 2_000, 50_000


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # of answers that are trained
        return
    epochs, rows = facts.num_epochs, facts.num_rows
    stops = facts.recipe.train.early_stopping_patience is not None
    if rows < FEW_ROWS and epochs < 2.95:  # max_steps need not give a round number
        severity = "warning" if epochs < 1.5 else "note"
        usual = f"few for {rows:,.0f} rows: under {FEW_ROWS:,} rows 3 to 5 epochs are usual"
    elif rows <= MANY_ROWS and epochs > 5.05 and not stops:
        severity = "warning" if epochs > 10 else "note"
        few = rows < FEW_ROWS
        scope = f"under {FEW_ROWS:,} rows 3 to 5" if few else f"up to {MANY_ROWS:,} rows 1 to 5"
        usual = f"many for {rows:,.0f} rows: {scope} epochs are usual, more learn them by heart"
    elif rows > MANY_ROWS and epochs > 2.05 and not stops:
        severity = "warning" if epochs > 3.05 else "note"
        usual = f"many for {rows:,.0f} rows: over {MANY_ROWS:,} rows 1 or 2 epochs are usual"
    else:
        return
    steps = facts.recipe.train.max_steps
    passes = f"{epochs:.2g} {'epoch' if epochs == 1 else 'epochs'}"
    told = passes if steps is None else f"{steps:,} steps (max_steps) come to {passes}, which"
    is_one = steps is None and epochs == 1
    where = "train.num_train_epochs" if steps is None else "train.max_steps"
    message = f"{told} {'is' if is_one else 'are'} {usual}"
    yield Finding(ID, severity, message, where)  # type: ignore[arg-type]
