"""A learning rate of full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "learning-rate-too-low"
SEVERITIES = ("warning", "note")
TITLE = "A learning rate of full fine-tuning"
REASON = (
    "LoRA needs about ten times the learning rate of full fine-tuning, because few parameters "
    "must move the output as far. At 1e-5 and below an adapter hardly learns within the usual "
    "number of steps."
)
SOURCE = (
    "practice: 1e-4 to 3e-4; LoRA Without Regret (Thinking Machines, 2025): ten times that of "
    "full fine-tuning"
)
EXAMPLE = "train: {learning_rate: 1e-6}"
MEND = "Start at 2e-4."

HARDLY_LEARNS, LOW = 1e-5, 5e-5


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # whose steps are smaller by themselves
        return
    rate = facts.recipe.train.learning_rate
    if rate >= LOW:
        return
    severity, effect = (
        ("warning", "hardly learns") if rate < HARDLY_LEARNS else ("note", "learns slowly")
    )
    message = (
        f"learning_rate {rate:g} is one of full fine-tuning: an adapter {effect} at it; "
        "start at 2e-4"
    )
    yield Finding(ID, severity, message, "train.learning_rate")  # type: ignore[arg-type]
