"""Prompts are trained as well."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "prompts-are-trained"
SEVERITIES = ("note",)
TITLE = "Prompts are trained as well"
REASON = (
    "trained: all takes the loss over questions too. For conversations that spends capacity "
    "on writing questions; it helps a little only where answers are very short and rows are "
    "few."
)
SOURCE = "Shi et al., Instruction Tuning With Loss Over Instructions (arXiv 2405.14394)"
EXAMPLE = "data: {trained: all}"
MEND = "Leave data.trained out (assistant)."


def find(facts: Facts) -> Iterator[Finding]:
    if facts.recipe.data.trained == "all" and facts.train.chats:
        message = (
            "trained: all trains the questions too; for conversations assistant is the usual choice"
        )
        yield Finding(ID, "note", message, "data.trained")
