"""Plain text trained on an instruction-tuned base."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.instruct import is_tuned_by_name

ID = "plain-text-on-instruct-base"
SEVERITIES = ("warning", "note")
TITLE = "Plain text trained on an instruction-tuned base"
REASON = (
    "Training raw text on a model that was tuned for conversations undoes part of that "
    "tuning: it goes on with texts instead of answering. That may be meant (continued "
    "pretraining), so it is a note; a warning where most texts are questions with answers or "
    "instructions written out (`### Instruction:`, `Question: ... Answer:`): then the model "
    "learns a second format beside its own template, prompts are trained, and nothing marks "
    "where an answer ends."
)
SOURCE = "practice"
EXAMPLE = '{"text": "### Instruction: Sum up. ### Response: The dose was halved."}'
MEND = (
    "Write such rows as conversations; for continued pretraining start from the base model of "
    "the same family, and measure retention."
)

MIN_SHARE = 0.5
_MARKER = r"(?:^|\n|\s)(?:#{2,3}\s*)?(?:\*\*|\[|<\|?)?"
_END = r"(?:\*\*)?\s*(?:\|?>|\]|:)"
# A mark for what is asked, and later one for what is answered.
_SQUEEZED = regex.compile(
    rf"{_MARKER}(?:instructions?|question|prompt|user|human|input|q|inst){_END}.*?"
    rf"{_MARKER}/?(?:response|answer|assistant|bot|output|completion|a|inst){_END}",
    regex.I | regex.S,
)
MAX_CHARACTERS = 20_000


def find(facts: Facts) -> Iterator[Finding]:
    plain = [row for row in facts.train if row.is_plain]
    if len(plain) < MIN_SHARE * len(facts.train) or facts.tokenizer.chat_template is None:
        return
    model = facts.recipe.base.model
    why = "by its name" if is_tuned_by_name(model) else "by its chat template"
    tuned = f"{model} is tuned for conversations ({why})"
    squeezed = sum(_SQUEEZED.search(row.answer[:MAX_CHARACTERS]) is not None for row in plain)
    if squeezed >= MIN_SHARE * len(plain):
        message = (
            f"train: {squeezed:,} of {len(plain):,} plain texts are questions with answers written "
            f"out, and {tuned}: write them as conversations, so that its own template is used and "
            "answers alone are trained"
        )
        yield Finding(ID, "warning", message, "base.model")
    else:
        message = (
            f"train: plain text, and {tuned}: it will answer less well; fine if that is meant, "
            "otherwise start from the family's base model, or write the rows as conversations"
        )
        yield Finding(ID, "note", message, "base.model")
