"""So few optimizer steps that nothing is learned."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "few-steps"
SEVERITIES = ("warning",)
TITLE = "So few optimizer steps that nothing is learned"
REASON = (
    "A LoRA adapter starts at zero and needs some tens of updates before it does anything; a "
    "batch as large as a good part of the data set leaves too few."
)
SOURCE = (
    "practice; LoRA Without Regret (2025): LoRA bears large batches worse than full fine- tuning"
)
EXAMPLE = "train: {batch_size: 512, num_train_epochs: 3}   # of 1,000 rows: 6 steps"
MEND = "Lower train.batch_size (8 to 32 are usual), or train for more epochs."

MIN_STEPS = 20


def find(facts: Facts) -> Iterator[Finding]:
    train = facts.recipe.train
    if facts.num_steps < MIN_STEPS:
        where = "train.batch_size" if train.max_steps is None else "train.max_steps"
        seen = f"{facts.num_rows:,.0f} rows in batches of {train.batch_size:,}"
        if facts.is_policy:
            group = facts.recipe.grpo.num_generations
            seen = (
                f"{facts.num_rows:,.0f} questions, {group} completions of each, in batches of "
                f"{train.batch_size:,} completions"
            )
        message = (
            f"{facts.num_steps} optimizer steps ({seen}): an adapter needs some tens to learn "
            "anything; lower batch_size or train longer"
        )
        yield Finding(ID, "warning", message, where)
