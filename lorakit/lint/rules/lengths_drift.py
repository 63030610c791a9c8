"""Held-out rows of another length than the training rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "lengths-drift"
SEVERITIES = ("note",)
TITLE = "Held-out rows of another length than the training rows"
REASON = (
    "Answers several times longer or shorter than those trained on mean that the held-out set "
    "asks for something else, or was cut."
)
SOURCE = "practice"
EXAMPLE = "evaluate: {in_domain: summaries_cut_at_100_characters.jsonl}"
MEND = "Check how the sets were made."

MIN_ROWS = 30
FACTOR = 3.0


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # of answers that are trained
        return
    trained = float(np.median(facts.sets.train.examples.trained_lengths))
    for name in ("validation", "in_domain"):
        prepared = facts.held_out_sets.get(name)
        if prepared is None or len(prepared.examples) < MIN_ROWS:
            continue
        held = float(np.median(prepared.examples.trained_lengths))
        if held > FACTOR * trained or trained > FACTOR * held:
            message = (
                f"{name}: its answers have {held:.0f} tokens (the median), those of train "
                f"{trained:.0f}: is it the same task?"
            )
            where = "data.validation" if name == "validation" else f"evaluate.{name}"
            yield Finding(ID, "note", message, where)
