"""A high weight decay."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "weight-decay-high"
SEVERITIES = ("warning", "note")
TITLE = "A high weight decay"
REASON = (
    "Weight decay pulls A and B to zero, that is back to the base. 0 to 0.01 are usual for "
    "LoRA, 0.1 is the upper end."
)
SOURCE = "practice (QLoRA, arXiv 2305.14314: 0)"
EXAMPLE = "train: {weight_decay: 1.0}"
MEND = "Set train.weight_decay: 0 to 0.01."

HIGH, TOO_HIGH = 0.1, 0.3


def find(facts: Facts) -> Iterator[Finding]:
    decay = facts.recipe.train.weight_decay
    if decay > HIGH:
        message = f"weight_decay {decay:g} pulls the adapter back to the base; 0 to 0.01 are usual"
        severity = "warning" if decay > TOO_HIGH else "note"
        yield Finding(ID, severity, message, "train.weight_decay")  # type: ignore[arg-type]
