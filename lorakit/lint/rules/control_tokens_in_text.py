"""A template's control tokens inside the text."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "control-tokens-in-text"
SEVERITIES = ("warning", "note")
TITLE = "A template's control tokens inside the text"
REASON = (
    "Rows that were rendered already (<|im_start|>, [INST], ### Response: inside a message) "
    "get a second template around the first: the model learns to write control tokens as "
    "text, and never sees the first ones when served. The data contract notes single "
    "spellings of the tokenizer's own tokens (special-token-in-text)."
)
SOURCE = "practice; axolotl#2089, unsloth#2771: wrong spans after double templates"
EXAMPLE = '{"messages": [{"role": "user", "content": "<|im_start|>user\nHello<|im_end|>"}]}'
MEND = "Give the plain messages; the template adds the tokens."

MIN_SHARE, MIN_ROWS = 0.01, 2
_CONTROL = regex.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|end_of_text|endoftext|"
    r"user|assistant|system|end|eom_id)\|>|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>|"
    r"^### (?:Instruction|Response|Input|Human|Assistant):|</s>\s*(?:$|<s>|\[INST\])",
    regex.M,
)


def find(facts: Facts) -> Iterator[Finding]:
    own = [str(token) for token in facts.tokenizer.all_special_tokens if len(str(token)) > 2]
    named = regex.compile("|".join(map(regex.escape, own)) or r"(?!)")
    hits = Hits(facts.train)
    for row in facts.train:
        match = _CONTROL.search(row.text) or named.search(row.text)
        if match:
            hits.add(row, match[0])
    if hits.count:
        many = hits.share >= MIN_SHARE and hits.count >= MIN_ROWS
        yield hits.finding(
            ID,
            "warning" if many else "note",
            "spell a template's control tokens in their text",
            "give plain messages: the template adds them",
        )
