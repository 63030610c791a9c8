"""The template's control tokens are no tokens of the base."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "template-tokens-in-pieces"
SEVERITIES = ("warning",)
TITLE = "The template's control tokens are no tokens of the base"
REASON = (
    "A template whose <|im_start|> is not in the vocabulary is written in pieces of ordinary "
    "text: longer, never a clear mark, and its stop is no stop token."
)
SOURCE = "practice; trl#5988, axolotl#2089"
EXAMPLE = """\
base: {model: gpt2}
data: {chat_template: chatml.jinja}"""
MEND = (
    "Add them: base.add_special_tokens: ['<|im_start|>', '<|im_end|>'], which trains their "
    "embeddings; or take the plain template (leave chat_template out)."
)

_CONTROL = regex.compile(r"<\|[a-zA-Z_]{2,40}\|>|<(?:start|end)_of_turn>")


def find(facts: Facts) -> Iterator[Finding]:
    if not facts.train.chats:
        return
    known = set(facts.tokenizer.get_vocab())
    spelled = dict.fromkeys(_CONTROL.findall(_written(facts.sets.train.chat_template)))
    missing = [token for token in spelled if token not in known]
    if missing:
        message = (
            f"the chat template writes {', '.join(missing[:4])}, which {facts.recipe.base.model}'s "
            "tokenizer cuts into pieces of plain text; name them in base.add_special_tokens"
        )
        yield Finding(ID, "warning", message, "data.chat_template")


def _written(source: str) -> str:
    """The template without its comments and conditions: what may be written by it."""
    return regex.sub(r"\{#.*?#\}|\{%-?\s*(?:el)?if .*?%\}", "", source, flags=regex.S)
