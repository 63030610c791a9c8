"""The chat template as a function from messages to text, in transformers' sandbox, with bounds.

transformers compiles templates in jinja2's ImmutableSandboxedEnvironment; what they raise becomes a
DataError that says what the template said.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from lorakit.data.plain_template import plain_template
from lorakit.errors import DataError

MAX_TEMPLATE_BYTES = 1 << 20
MAX_RENDERED_CHARACTERS = 64 << 20

# What template code can raise: jinja2's own errors, and Python's for what an expression does.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_XML_TAG = re.compile(r"</?[a-z_]+>")

Messages = Sequence[dict[str, Any]]


class ChatTemplate:
    """One tokenizer's chat template, or the plain one, or the one given instead.

    Attributes:
        source: the Jinja source, as it should be saved with the trained model.
        has_markers: it marks what the model generates with `{% generation %}`.
        uses_date: it writes today's date.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._for_tools: str | None = None
        if source is None and isinstance(tokenizer.chat_template, dict):
            self._for_tools = tokenizer.chat_template.get("tool_use")
            source = tokenizer.get_chat_template()
        self.is_plain = source is None and not tokenizer.chat_template
        self.source: str = source or tokenizer.chat_template or plain_template(tokenizer)
        if len(self.source) > MAX_TEMPLATE_BYTES:
            raise DataError(
                f"the chat template has {len(self.source)} characters; {MAX_TEMPLATE_BYTES} are allowed."
            )
        self.has_markers = _GENERATION.search(self.source) is not None
        self.uses_date = "strftime_now" in self.source
        self.text_as_parts = False
        self.arguments_as_text = False
        self._probe()

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that decides what is rendered."""
        special = json.dumps(self._tokenizer.special_tokens_map, sort_keys=True, default=str)
        parts = (self.source, self._for_tools or "", special, str(self.text_as_parts))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def messages_for(self, messages: Messages) -> list[dict[str, Any]]:
        """The messages in the shape that this template reads (see `_probe`)."""
        return [self._shaped(message) for message in messages]

    def render(self, messages: Messages, tools: Messages = (), *, prompt: bool = False) -> str:
        """The text of shaped messages, with the generation prompt if asked.

        Raises:
            DataError: the template refuses the messages, with its reason.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=self._source_for(tools),
                add_generation_prompt=prompt,
                tokenize=False,
            )
        except _TEMPLATE_FAULTS as error:
            raise DataError(_refusal(error)) from error
        return _bounded(text)

    def render_marked(
        self, messages: Messages, tools: Messages = ()
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character spans that `{% generation %}` blocks wrote."""
        plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:
            texts, spans = render_jinja_template(
                conversations=[plain],
                tools=list(tools) or None,
                chat_template=self._source_for(tools),
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        except _TEMPLATE_FAULTS as error:
            raise DataError(_refusal(error)) from error
        return _bounded(texts[0]), [(start, end) for start, end in spans[0]]

    def control_tokens(self) -> tuple[str, ...]:
        """Texts that act as control tokens, longest first: every special token, and added tokens that
        the template writes, except XML-like tags (`<think>`, `</tool_call>`), which are content."""
        added = self._tokenizer.added_tokens_decoder.values()
        texts = {
            token.content
            for token in added
            if token.content.strip()
            and (
                token.special
                or (token.content in self.source and not _XML_TAG.fullmatch(token.content))
            )
        }
        return tuple(sorted(texts, key=lambda text: (-len(text), text)))

    def _source_for(self, tools: Messages) -> str:
        return self._for_tools if tools and self._for_tools else self.source

    def _probe(self) -> None:
        """Learn two facts that differ between templates: whether text must come as a list of parts
        (vision templates drop plain strings), and whether tool arguments must come as JSON text."""
        turns = [
            {"role": "user", "content": "probeuser"},
            {"role": "assistant", "content": "probeassistant"},
        ]
        if not self._shows(turns, ()):
            self.text_as_parts = True
            self.text_as_parts = self._shows(self.messages_for(turns), ())
        call = {"name": "probetool", "arguments": {"probekey": "probevalue"}}
        calling = [
            {"role": "user", "content": "probeuser"},
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "id": "p1", "function": call}],
            },
        ]
        if "tool_calls" in self.source and not self._shows(
            self.messages_for(calling), ("probevalue",)
        ):
            self.arguments_as_text = True
            self.arguments_as_text = self._shows(self.messages_for(calling), ("probevalue",))

    def _shows(self, messages: Messages, words: Sequence[str]) -> bool:
        try:
            text = self.render(messages)
        except DataError:
            return False
        return all(word in text for word in words or ("probeuser", "probeassistant"))

    def _shaped(self, message: dict[str, Any]) -> dict[str, Any]:
        shaped = dict(message)
        content = message.get("content")
        if self.text_as_parts and isinstance(content, str):
            shaped["content"] = [{"type": "text", "text": content}]
        if self.arguments_as_text and "tool_calls" in message:
            shaped["tool_calls"] = [_with_text_arguments(call) for call in message["tool_calls"]]
        return shaped


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _refusal(error: BaseException) -> str:
    reason = str(error).strip() or type(error).__name__
    kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    return f"the chat template refuses it: {kind}{reason[:300]}"


def _bounded(text: str) -> str:
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise DataError(
            f"the chat template wrote {len(text)} characters for one row; "
            f"{MAX_RENDERED_CHARACTERS} are allowed. Check the template."
        )
    return text
