"""Plain text trained on an instruction-tuned base."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.instruct import is_tuned_by_name

ID = "plain-text-on-instruct-base"
SEVERITIES = ("warning", "note")
TITLE = "Plain text trained on an instruction-tuned base"
REASON = (
    "Training raw text on a model that was tuned for conversations undoes part of that "
    "tuning: it goes on with texts instead of answering. A note where only the chat template "
    "says that it was tuned, since many base models ship one."
)
SOURCE = "practice"
EXAMPLE = """\
base: {model: meta-llama/Llama-3.1-8B-Instruct}
data: {train: books.txt}"""
MEND = "Start from the base model of the same family, or write the rows as conversations."

MIN_SHARE = 0.5


def find(facts: Facts) -> Iterator[Finding]:
    plain = sum(row.is_plain for row in facts.train)
    if plain < MIN_SHARE * len(facts.train) or facts.tokenizer.chat_template is None:
        return
    named = is_tuned_by_name(facts.recipe.base.model)
    why = "by its name" if named else "by its chat template"
    message = (
        f"train: plain text, and {facts.recipe.base.model} is tuned for conversations ({why}): "
        "it will "
        "answer less well; start from the family's base model, or write the rows as conversations"
    )
    severity = "warning" if named else "note"
    yield Finding(ID, severity, message, "base.model")  # type: ignore[arg-type]
