"""The chat template as a function from messages to text.

It runs in transformers' sandbox (jinja2's ImmutableSandboxedEnvironment) in a child process with
bounds; what it raises becomes a DataError that says what the template said.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lorakit.data.conversation import ROLES
from lorakit.data.plain_template import plain_template
from lorakit.data.template_process import Rendering, Spans, template_process
from lorakit.errors import DataError

MAX_TEMPLATE_BYTES = 1 << 20

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_XML_TAG = re.compile(r"</?[a-z_]+>")

Messages = Sequence[dict[str, Any]]


@dataclass
class Habits:
    """How a template wants its messages, and what it refuses.

    Attributes:
        text_as_parts: text must come as a list of parts (vision templates drop plain strings).
        arguments_as_text: a tool call's arguments must come as JSON text.
        content_always: a message with tool calls needs a content, if an empty one.
        refuses_system: a system message is an error.
        joined_roles: roles whose content must come as one string, because the template writes a
            list of text parts as Python would.
    """

    text_as_parts: bool = False
    arguments_as_text: bool = False
    content_always: bool = False
    refuses_system: bool = False
    joined_roles: frozenset[str] = frozenset()


class ChatTemplate:
    """One tokenizer's chat template, or the plain one, or the one given instead.

    Attributes:
        source: the Jinja source, as it should be saved with the trained model.
        has_markers: it marks what the model generates with `{% generation %}`.
        uses_date: it writes today's date.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._process = template_process()
        self._special = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
        self._for_tools: str | None = None
        if source is None and isinstance(tokenizer.chat_template, dict):
            self._for_tools = tokenizer.chat_template.get("tool_use")
            source = tokenizer.get_chat_template()
        if source is None:
            source = tokenizer.chat_template or plain_template(tokenizer)
        self.source: str = source
        if not self.source.strip():
            raise DataError("the chat template is empty; give one with text, or leave it out.")
        if len(self.source) > MAX_TEMPLATE_BYTES:
            raise DataError(
                f"the chat template has {len(self.source)} characters; {MAX_TEMPLATE_BYTES} are "
                f"allowed."
            )
        self.has_markers = _GENERATION.search(self.source) is not None
        self.uses_date = "strftime_now" in self.source
        self._habits = Habits()
        self._is_probed = False

    @property
    def habits(self) -> Habits:
        """What the template is like, found out when first asked for: it takes its process."""
        if not self._is_probed:
            self._is_probed = True
            self._probe()
        return self._habits

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that decides what is rendered."""
        special = json.dumps(self._special, sort_keys=True)
        parts = (self.source, self._for_tools or "", special)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def messages_for(self, messages: Messages) -> list[dict[str, Any]]:
        """The messages in the shape that this template reads (see `_probe`)."""
        return [self._shaped(message) for message in messages]

    def folds_system(self, messages: Messages) -> bool:
        """Whether a system message is put before the first user message, because it is refused."""
        return (
            self.habits.refuses_system
            and len(messages) > 1
            and messages[0]["role"] == "system"
            and messages[1]["role"] == "user"
        )

    def render(self, messages: Messages, tools: Messages = (), *, prompt: bool = False) -> str:
        """The text of shaped messages, with the generation prompt if asked.

        Raises:
            DataError: the template refuses the messages, with its reason, or breaks a limit.
        """
        return self._rendered(messages, tools, prompt=prompt, marked=False)[0]

    def render_marked(
        self, messages: Messages, tools: Messages = ()
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character spans that `{% generation %}` blocks wrote."""
        return self._rendered(messages, tools, prompt=False, marked=True)

    def render_many(
        self, asked: Sequence[tuple[Messages, Messages, bool]]
    ) -> list[str | DataError]:
        """`render` of many (messages, tools, prompt); what it would raise stands in its place."""
        return self._process.render_many(
            [self._rendering(messages, tools, prompt=prompt) for messages, tools, prompt in asked]
        )

    def _rendered(
        self, messages: Messages, tools: Messages, *, prompt: bool, marked: bool
    ) -> tuple[str, Spans]:
        return self._process.render(self._rendering(messages, tools, prompt=prompt, marked=marked))

    def _rendering(
        self, messages: Messages, tools: Messages, *, prompt: bool, marked: bool = False
    ) -> Rendering:
        return Rendering(
            source=self._for_tools if tools and self._for_tools else self.source,
            messages=list(messages),
            tools=list(tools),
            special=self._special,
            prompt=prompt,
            marked=marked,
        )

    def control_tokens(self) -> tuple[str, ...]:
        """Texts that act as control tokens, longest first: every special token, and added tokens
        that the template writes, except XML-like tags (`<think>`, `</tool_call>`), which are
        content."""
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

    def _probe(self) -> None:
        """Learn the habits from small conversations."""
        turns = [
            {"role": "user", "content": "probeuser"},
            {"role": "assistant", "content": "probeassistant"},
        ]
        if not self._shows(turns, ()):
            self._habits.text_as_parts = True
            self._habits.text_as_parts = self._shows(self.messages_for(turns), ())
        system = {"role": "system", "content": "probesystem"}
        self._habits.refuses_system = self._renders(turns) and not self._renders([system, *turns])
        if "tool_calls" in self.source:
            self._probe_tool_calls()
        if not self._habits.text_as_parts:
            self._habits.joined_roles = frozenset(
                r for r in ROLES if not self._reads_parts(r, turns)
            )

    def _reads_parts(self, role: str, turns: Messages) -> bool:
        """Whether a text part says the same as a string, for messages of this role."""
        others: dict[str, list[dict[str, Any]]] = {
            "user": [*turns],
            "assistant": [*turns],
            "tool": [*turns, {"role": "tool", "content": "probetool"}],
        }
        messages = others.get(role, [{"role": role, "content": "probesystem"}, *turns])
        parts = [
            {**m, "content": [{"type": "text", "text": m["content"]}]} if m["role"] == role else m
            for m in messages
        ]
        try:
            return self.render(messages) == self.render(parts)
        except DataError:
            return False

    def _probe_tool_calls(self) -> None:
        """Find a shape of tool calls that the template shows; the usual one if there is none."""
        call = {"name": "probetool", "arguments": {"probekey": "probevalue"}}
        calling: Messages = [
            {"role": "user", "content": "probeuser"},
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "id": "p1", "function": call}],
            },
        ]
        for as_text, with_content in ((False, False), (False, True), (True, False), (True, True)):
            self._habits.arguments_as_text, self._habits.content_always = as_text, with_content
            if self._shows(self.messages_for(calling), ("probevalue",)):
                return
        self._habits.arguments_as_text = self._habits.content_always = False

    def _renders(self, messages: Messages) -> bool:
        try:
            self.render(self.messages_for(messages))
        except DataError:
            return False
        return True

    def _shows(self, messages: Messages, words: Sequence[str]) -> bool:
        try:
            text = self.render(messages)
        except DataError:
            return False
        return all(word in text for word in words or ("probeuser", "probeassistant"))

    def _shaped(self, message: dict[str, Any]) -> dict[str, Any]:
        habits = self.habits
        content = message.get("content")
        if isinstance(content, str) and len(message) == 2 and not habits.text_as_parts:
            return message  # a role and a text, as most rows have them
        shaped = dict(message)
        if content is None and habits.content_always:
            shaped["content"] = content = ""
        if habits.text_as_parts and isinstance(content, str):
            shaped["content"] = [{"type": "text", "text": content}]
        if isinstance(content, list) and message["role"] in habits.joined_roles:
            shaped["content"] = _text_of(message)
        if habits.arguments_as_text and "tool_calls" in message:
            shaped["tool_calls"] = [_with_text_arguments(call) for call in message["tool_calls"]]
        return shaped


def fold_system(messages: Messages) -> list[dict[str, Any]]:
    """One message less: the system text stands before the first user's, after a blank line."""
    system, user = messages[0], messages[1]
    return [{**user, "content": f"{_text_of(system)}\n\n{_text_of(user)}"}, *messages[2:]]


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}
