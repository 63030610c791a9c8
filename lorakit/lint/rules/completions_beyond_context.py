"""Prompts that leave no room for a completion in the context."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.data.named_sets import context_of
from lorakit.lint.facts import Facts
from lorakit.plan.policy import prompt_lengths

ID = "completions-beyond-context"
SEVERITIES = ("error",)
TITLE = "Prompts that leave no room for a completion in the context"
REASON = (
    "A completion of grpo.max_completion_length tokens after the longest prompt must fit the "
    "context of the base: beyond it positions were never trained, and the sampler stops."
)
SOURCE = "the data contract"
EXAMPLE = "grpo: {max_completion_length: 2048}   # of a base with a context of 2,048"
MEND = "Lower grpo.max_completion_length, or data.max_length so that long rows are left out."


def find(facts: Facts) -> Iterator[Finding]:
    context = context_of(facts.config)
    if not facts.is_policy or context is None:
        return
    longest = int(prompt_lengths(facts.sets.train.examples).max())
    completion = facts.recipe.grpo.max_completion_length
    if longest + completion > context:
        message = (
            f"train: the longest prompt has {longest} tokens, which with max_completion_length "
            f"{completion} are more than the base's context of {context}"
        )
        yield Finding(ID, "error", message, "grpo.max_completion_length")
