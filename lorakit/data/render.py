"""A conversation to token ids and loss weights: what the model sees, and which of it is trained.

The ids equal `tokenizer.apply_chat_template(messages, tools=..., tokenize=True)`. Which tokens are
trained follows from character positions (`skeleton.py`): everything the model itself has to produce
after the generation prompt, up to and including the stop token. Only a row whose text spells a
control token is encoded in pieces, so that the text stays text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.boundaries import BoundaryFinder
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import Example
from lorakit.data.located import Located, Shaped
from lorakit.data.locator import Locator
from lorakit.data.lossless import Note, doubled_notes, dropped_notes
from lorakit.data.prompt_check import PromptCheck
from lorakit.data.template import ChatTemplate, fold_system
from lorakit.data.tokens import Encoded, Encoder
from lorakit.errors import DataError

Trained = Literal["assistant", "completion", "all"]


@dataclass(frozen=True)
class Rendered:
    """An Example with the text it was made of and what is to be said about it.

    Attributes:
        example: ids and loss weights.
        text: the rendered text.
        notes: (finding id, detail) pairs.
        stop_ids: tokens that end trained turns: generation must stop there.
    """

    example: Example
    text: str
    notes: tuple[tuple[str, str], ...] = ()
    stop_ids: tuple[int, ...] = ()


class Renderer:
    """Renders conversations for one tokenizer.

    Args:
        tokenizer: a fast tokenizer.
        trained: `assistant` (every assistant turn, times its message's weight), `completion` (the
            last assistant turn only) or `all` (every token).
        chat_template: Jinja source to use instead of the tokenizer's.

    Raises:
        DataError: no offsets, or no template and no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        trained: Trained = "assistant",
        chat_template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._trained = trained
        self.template = ChatTemplate(tokenizer, chat_template)
        tokens = self.template.control_tokens()
        self._control = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        self.encoder = Encoder(tokenizer, self._control)
        self._prompt_check = PromptCheck(self.encoder, self._control)
        self._boundaries = BoundaryFinder(tokenizer, self._control, self.encoder)
        self.locator = Locator(tokenizer, self.template, self._control, self._boundaries)

    @property
    def chat_template(self) -> str:
        """The Jinja source in use: the tokenizer's, the given one, or the plain one."""
        return self.template.source

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the template, the tokenizer's files and what is trained. To be asked for
        before anything is encoded: that changes settings that are a part of it."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        parts = (self.template.fingerprint, backend, self._trained)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def render(self, conversation: Conversation | PlainText) -> Example:
        """Token ids and loss weights of a conversation.

        Raises:
            DataError: the template refuses it, drops a trained turn, or does not end it.
        """
        return self.render_noted(conversation).example

    def messages_for(self, conversation: Conversation) -> list[dict[str, Any]]:
        """The messages as the template is given them: apply_chat_template of these is the ids."""
        return self.template.messages_for(self._folded(conversation)[0].messages)

    def render_noted(self, conversation: Conversation | PlainText) -> Rendered:
        """As `render`, with the text and the findings."""
        if isinstance(conversation, PlainText):
            return self.plain(conversation)
        shaped = self.shape(conversation)
        text = self.template.render(shaped.messages, shaped.conversation.tools)
        located = self.locator.locate(shaped, text)
        encoded = (
            self.encoder.encode_around(text, located.spelled)
            if located.spelled
            else self.encoder.encode([text])[0]
        )
        asked = "" if located.spelled else self._ask(shaped)
        return self._by_offsets(shaped, text, located, encoded, asked)

    def shape(self, conversation: Conversation) -> Shaped:
        """The conversation as the template takes it."""
        self._check_tool_calls(conversation)
        conversation, notes = self._folded(conversation)
        messages = self.template.messages_for(conversation.messages)
        return Shaped(conversation, messages, self._turns_of(conversation), notes)

    def from_text(
        self,
        shaped: Shaped,
        text: str,
        tokens: Encoded | np.ndarray | None,
        asked: str | DataError | None,
        located: Located | None = None,
    ) -> tuple[Rendered, bool]:
        """As `render_noted`, from what was made of the row already.

        Args:
            text: the rendered conversation.
            tokens: of the text, encoded in one piece: int32 ids (T,), or with offsets.
            asked: see `PromptCheck.notes`.
            located: how the text is made up, if that is known.

        Returns:
            The example with its findings, and whether the text had to be encoded again.
        """
        if located is None:
            located = self.locator.locate(shaped, text)
        if located.spelled:
            encoded = self.encoder.encode_around(text, located.spelled)
            return self._by_offsets(shaped, text, located, encoded, asked), True
        if isinstance(tokens, Encoded):
            return self._by_offsets(shaped, text, located, tokens, asked), False
        if tokens is not None and located.shape.boundaries is not None:
            inside = self._boundaries.slices(located.shape.boundaries, tokens)
            if inside is not None:
                check = self._prompt_check.notes(located, None, text, asked)
                return self._finish(shaped, text, located, tokens, inside, check), False
        encoded = self.encoder.encode([text])[0]
        return self._by_offsets(shaped, text, located, encoded, asked), True

    def _by_offsets(
        self,
        shaped: Shaped,
        text: str,
        located: Located,
        encoded: Encoded,
        asked: str | DataError | None,
    ) -> Rendered:
        """The trained tokens by the characters they cover: the definition, for every row."""
        turns = located.shape.skeleton.turns
        inside = [
            [self._inside(encoded, start, end, text) for start, end in located.spans(turn)]
            for turn in turns
        ]
        if located.spelled:
            return self._finish(shaped, text, located, encoded.ids, inside, [])
        check = self._prompt_check.notes(located, encoded, text, asked)
        return self._finish(shaped, text, located, encoded.ids, inside, check)

    def _finish(
        self,
        shaped: Shaped,
        text: str,
        located: Located,
        ids: np.ndarray,
        inside: Sequence[Sequence[np.ndarray | slice]],
        check: list[Note],
    ) -> Rendered:
        """The example and what is to be said about it.

        Args:
            ids: int32 (T,).
            inside: of each turn, the trained tokens of its spans.
            check: the findings on the prompt.
        """
        skeleton, conversation = located.shape.skeleton, shaped.conversation
        notes = list(shaped.notes)
        if not located.shape.keeps_all or conversation.tools:
            notes += dropped_notes(skeleton, located.masked, conversation, text)
        weights = np.zeros(len(ids), dtype=np.float32)
        for turn, places in zip(skeleton.turns, inside, strict=True):
            for place in places:
                weights[place] = conversation.weights[turn.message]
            notes += [(note, "") for note in turn.notes]
            message = conversation.messages[turn.message]
            notes += doubled_notes(message, text, partial(located.spans, turn))
        if located.spelled:
            notes.append(("special-token-in-text", repr(text[slice(*located.spelled[0])])))
        notes += check
        if self._trained == "all":
            weights[:] = 1.0
        weights[:1] = 0.0
        by_id = dict(reversed(notes))  # the first detail of each finding
        return Rendered(Example(ids, weights), text, tuple(by_id.items()), located.shape.stop_ids)

    def _folded(self, conversation: Conversation) -> tuple[Conversation, list[tuple[str, str]]]:
        """The conversation without a system message of its own where the template refuses one."""
        if not self.template.folds_system(conversation.messages):
            return conversation, []
        messages = tuple(fold_system(conversation.messages))
        return Conversation(messages, conversation.weights[1:], conversation.tools), [
            ("system-folded", "")
        ]

    def _check_tool_calls(self, conversation: Conversation) -> None:
        calling = any("tool_calls" in message for message in conversation.messages)
        if calling and "tool_calls" not in self.template.source:
            raise DataError(
                "the chat template has no form for tool calls; give a chat_template that has one, "
                "or write the calls into the content"
            )

    def plain(self, plain: PlainText, inner: np.ndarray | None = None) -> Rendered:
        """Raw text between the tokens the tokenizer itself puts around it, then the end token.

        Args:
            inner: int32, the ids of the text alone if they are known.
        """
        end = self.tokenizer.eos_token_id
        if end is None:
            raise DataError(
                "the tokenizer has no end-of-sequence token, so plain text could not end; set "
                "eos_token in tokenizer_config.json."
            )
        spelled = [match.span() for match in self._control.finditer(plain.text)]
        if spelled:
            inner = self.encoder.encode_around(plain.text, spelled).ids
        elif inner is None:
            inner = self.encoder.ids(plain.text)
        ids = np.concatenate([self._lead, inner, [end]]).astype(np.int32)
        weights = np.ones(len(ids), dtype=np.float32)
        weights[0] = 0.0
        notes = (
            (("special-token-in-text", repr(plain.text[slice(*spelled[0])])),) if spelled else ()
        )
        return Rendered(Example(ids, weights), plain.text, notes, (end,))

    @cached_property
    def _lead(self) -> np.ndarray:
        """The beginning-of-sequence token, if the tokenizer itself puts it before a text."""
        begin = self.tokenizer.bos_token_id
        adds = begin is not None and self.tokenizer("a").input_ids[:1] == [begin]
        return np.array([begin] if adds else [], np.int32)

    def _ask(self, shaped: Shaped) -> str | DataError:
        """The last trained turn's prompt, or what its rendering raises."""
        asked = shaped.prompt()
        if asked is None:
            return ""
        messages, tools, prompt = asked
        try:
            return self.template.render(messages, tools, prompt=prompt)
        except DataError as error:
            return error

    def _turns_of(self, conversation: Conversation) -> list[int]:
        turns = [i for i, m in enumerate(conversation.messages) if m["role"] == "assistant"]
        if self._trained == "completion":
            turns = turns[-1:]
        return [i for i in turns if conversation.weights[i] > 0]

    def _inside(self, encoded: Encoded, start: int, end: int, text: str) -> np.ndarray:
        """Tokens that cover characters of [start, end), bool (T,).

        A header token that swallows white space after it (phi-3) is not trained for that; a token
        of no width (SentencePiece's space before a word) belongs where it stands.
        """
        wide = encoded.ends > encoded.starts
        inside = np.where(
            wide,
            (encoded.ends > start) & (encoded.starts < end),
            (encoded.starts >= start) & (encoded.starts < end),
        )
        for i in np.flatnonzero(inside & (encoded.starts < start)):
            if self._control.match(text, int(encoded.starts[i])):
                inside[i] = False
        return inside
