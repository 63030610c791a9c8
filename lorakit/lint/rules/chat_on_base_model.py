"""Conversations on a base that was never tuned for them."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "chat-on-base-model"
SEVERITIES = ("note",)
TITLE = "Conversations on a base that was never tuned for them"
REASON = (
    "A base without a chat template has never seen turns: lorakit writes them as plain lines "
    "(User: ... Assistant: ...). It learns to answer from these rows alone, which takes more "
    "of them; the family's instruction-tuned model usually starts better."
)
SOURCE = "practice"
EXAMPLE = "base: {model: gpt2}"
MEND = "Start from the instruction-tuned model of the family, or bring some thousand rows."


def find(facts: Facts) -> Iterator[Finding]:
    if facts.tokenizer.chat_template is None and facts.train.chats:
        given = facts.recipe.data.chat_template
        how = "User: ... Assistant: ..." if given is None else given
        message = (
            f"{facts.recipe.base.model} has no chat template, so it was hardly tuned for "
            "conversations; "
            f"they are written as {how}, which it learns from these rows alone"
        )
        yield Finding(ID, "note", message, "base.model")
