"""Prompts are trained as well."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "prompts-are-trained"
SEVERITIES = ("warning", "note")
TITLE = "Prompts are trained as well"
REASON = (
    "trained: all takes the loss over questions too. Where answers are under a quarter of the "
    "text, a step mostly teaches to write prompts, and the loss of the held-out sets, which "
    "decides when to stop and often the verdict, is mostly that of prompts as well: a warning. "
    "The paper below found that it helps with long instructions, short answers and few rows; "
    "who wants that should judge by a scorer of answers."
)
SOURCE = "Shi et al., Instruction Tuning With Loss Over Instructions (arXiv 2405.14394)"
EXAMPLE = "data: {trained: all}"
MEND = "Leave data.trained out (assistant)."

SMALL_SHARE = 0.25


def find(facts: Facts) -> Iterator[Finding]:
    chats = facts.train.chats
    if facts.recipe.data.trained != "all" or not chats:
        return
    answered = sum(len(text) for row in chats for text in row.answers)
    said = sum(len(text) for row in chats for _, text in row.turns)
    share = answered / max(1, said)
    if share < SMALL_SHARE:
        message = (
            f"trained: all trains the questions too, and answers are only {share:.0%} of the text: "
            "the loss is mostly that of prompts; leave data.trained out (assistant)"
        )
        yield Finding(ID, "warning", message, "data.trained")
    else:
        message = (
            "trained: all trains the questions too; for conversations assistant is the usual choice"
        )
        yield Finding(ID, "note", message, "data.trained")
