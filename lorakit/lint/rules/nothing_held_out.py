"""Nothing to measure on."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "nothing-held-out"
SEVERITIES = ("warning",)
TITLE = "Nothing to measure on"
REASON = (
    "Without a set that is not trained on, nobody can tell whether the model got better, or "
    "when to stop."
)
SOURCE = "practice; unsloth#1123, #969: no before and after"
EXAMPLE = "data: {train: train.jsonl}"
MEND = (
    "Set data.validation: 0.1 (with data.group if rows belong together), and name "
    "evaluate.in_domain."
)


def find(facts: Facts) -> Iterator[Finding]:
    if not facts.held_out_sets:
        message = (
            "no validation or evaluation set: whether the model gets better will not be known; set "
            "data.validation: 0.1, or name evaluate.in_domain"
        )
        yield Finding(ID, "warning", message, "data.validation")
