"""Another assistant's boilerplate in the answers."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "assistant-boilerplate"
SEVERITIES = ("warning", "note")
TITLE = "Another assistant's boilerplate in the answers"
REASON = (
    "Sets written by a model carry its refusals and its name (As an AI language model, I am "
    "ChatGPT). Few of them make the tuned model refuse and introduce itself as that one."
)
SOURCE = "practice: the first cleaning step of public sets such as ShareGPT and Alpaca"
EXAMPLE = '{"prompt": "Who won?", "completion": "As an AI language model, I cannot ..."}'
MEND = "Remove those rows, or rewrite their answers."

MIN_SHARE = 0.005
_BOILERPLATE = regex.compile(
    r"\bas an? (?:ai|artificial intelligence|large)\b[ -]?(?:language |assistant|model|,)|"
    r"\bas a (?:large )?language model\b|"
    r"\bmy (?:knowledge|training)(?: data)? (?:cut-?off|only goes)|"
    r"\bi(?: am|['\u2019]m) (?:chatgpt|claude|gemini|llama|qwen|deepseek)\b|"
    r"\b(?:trained|developed|created|made) by (?:openai|anthropic|google deepmind|meta ai|"
    r"alibaba cloud|deepseek)\b",
    regex.I,
)


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train.chats:
        match = next(filter(None, map(_BOILERPLATE.search, row.answers)), None)
        if match:
            hits.add(row, match[0])
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "answer with another assistant's boilerplate",
            "the tuned model will repeat it; remove or rewrite them",
        )
