"""Another chat template than an instruction-tuned base's own."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "template-replaced"
SEVERITIES = ("warning",)
TITLE = "Another chat template than an instruction-tuned base's own"
REASON = (
    "An instruction-tuned model has learned to answer after the tokens of its own template. "
    "With another one it starts from nothing, and every tool that serves the model must be "
    "given the new one."
)
SOURCE = (
    "practice; complaints about models that do not stop or answer nonsense begin here "
    "(unsloth#2771, trl#1414)"
)
EXAMPLE = """\
base: {model: meta-llama/Llama-3.1-8B-Instruct}
data: {chat_template: chatml.jinja}"""
MEND = "Leave data.chat_template out, unless it only adds {% generation %} markers."

_CONTROL = regex.compile(r"<\|[a-zA-Z_]+\|>|\[/?INST\]|</?s>|<(?:start|end)_of_turn>")


def find(facts: Facts) -> Iterator[Finding]:
    given, own = facts.recipe.data.chat_template, facts.tokenizer.chat_template
    used = facts.sets.train.chat_template
    if given is None or not isinstance(own, str) or not facts.train.chats:
        return
    missing = _texts(own) - _texts(used)
    if missing:
        message = (
            f"{given} writes other turns than the template of {facts.recipe.base.model}, which has "
            f"{', '.join(sorted(missing)[:3])}: the base was tuned with those; leave "
            "data.chat_template out"
        )
        yield Finding(ID, "warning", message, "data.chat_template")


def _texts(source: str) -> set[str]:
    """The control tokens that a template writes."""
    return set(_CONTROL.findall(source))
