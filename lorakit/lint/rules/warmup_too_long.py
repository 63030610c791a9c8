"""Warm-up takes most of the run."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.train.schedule import count_warmup_steps

ID = "warmup-too-long"
SEVERITIES = ("error", "warning")
TITLE = "Warm-up takes most of the run"
REASON = (
    "Warm-up is for the first steps (5 % are usual). One that lasts longer than the run means "
    "that the learning rate that was set is never reached; one of a third of the run wastes "
    "it."
)
SOURCE = "practice: 3 to 5 % (QLoRA, arXiv 2305.14314)"
EXAMPLE = "train: {max_steps: 200, warmup_steps: 500}"
MEND = "Set train.warmup_ratio: 0.05."

TOO_LONG = 0.35


def find(facts: Facts) -> Iterator[Finding]:
    train = facts.recipe.train
    warmup = count_warmup_steps(
        train.lr_scheduler_type,
        facts.num_steps,
        warmup_steps=train.warmup_steps,
        warmup_ratio=train.warmup_ratio,
    )
    where = "train.warmup_steps" if train.warmup_steps is not None else "train.warmup_ratio"
    if warmup >= facts.num_steps > 1:
        message = (
            f"{warmup:,} warm-up steps, and the run has {facts.num_steps:,}: learning_rate "
            f"{train.learning_rate:g} is never reached; set warmup_ratio: 0.05"
        )
        yield Finding(ID, "error", message, where)
    elif warmup > max(5, TOO_LONG * facts.num_steps):
        message = (
            f"{warmup:,} of {facts.num_steps:,} steps are warm-up; 5 % are usual, and the rest "
            "of the "
            "run is short; set warmup_ratio: 0.05"
        )
        yield Finding(ID, "warning", message, where)
