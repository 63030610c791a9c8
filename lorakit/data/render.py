"""A conversation to token ids and loss weights: what the model sees, and which of it is trained.

The ids equal `tokenizer.apply_chat_template(messages, tools=..., tokenize=True)`. Which tokens are
trained follows from character positions (`skeleton.py`): everything the model itself has to produce
after the generation prompt, up to and including the stop token. Only a row whose text spells a
control token is encoded in pieces, so that the text stays text.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.alignment import Alignment, align
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import Example
from lorakit.data.lossless import doubled_notes, dropped_notes
from lorakit.data.masking import Masked, Masker
from lorakit.data.prompt_check import PromptCheck
from lorakit.data.skeleton import Skeleton, Turn, build_skeleton
from lorakit.data.template import ChatTemplate, fold_system
from lorakit.data.tokens import Encoded, Encoder
from lorakit.errors import DataError

Trained = Literal["assistant", "completion", "all"]

MAX_SKELETONS = 4096


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
        self._tokenizer = tokenizer
        self._trained = trained
        self.template = ChatTemplate(tokenizer, chat_template)
        tokens = self.template.control_tokens()
        self._control = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        self._encoder = Encoder(tokenizer, self._control)
        self._masker = Masker(self.template.source, self._control, "mq")
        self._skeletons: dict[str, Skeleton] = {}
        self._prompt_check = PromptCheck(self.template, self._encoder, self._control)

    @property
    def chat_template(self) -> str:
        """The Jinja source in use: the tokenizer's, the given one, or the plain one."""
        return self.template.source

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the template, the tokenizer's files and what is trained."""
        backend = self._tokenizer.backend_tokenizer.to_str()
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
            return self._plain(conversation)
        self._check_tool_calls(conversation)
        conversation, folded = self._folded(conversation)
        messages = self.template.messages_for(conversation.messages)
        text = self.template.render(messages, conversation.tools)
        risky = self._spells_control(conversation)
        skeleton, masked, alignment = self._located(conversation, messages, text, risky)
        spelled = self._spelled(text, skeleton, alignment)
        encoded = (
            self._encoder.encode_around(text, spelled)
            if spelled
            else self._encoder.encode([text])[0]
        )
        notes = folded + dropped_notes(skeleton, masked, conversation, text)
        weights = np.zeros(len(encoded.ids), dtype=np.float32)
        for turn in skeleton.turns:
            _check_turn(turn, skeleton, masked)
            spans = [(alignment.real(start), alignment.real(end)) for start, end in turn.spans]
            for start, end in spans:
                inside = self._inside(encoded, start, end, text)
                weights[inside] = conversation.weights[turn.message]
            notes += [(note, "") for note in turn.notes]
            notes += doubled_notes(conversation.messages[turn.message], text, spans)
        if spelled:
            notes.append(("special-token-in-text", repr(text[slice(*spelled[0])])))
        else:
            notes += self._prompt_check.notes(
                messages, conversation.tools, skeleton.turns, alignment, encoded, text
            )
        if self._trained == "all":
            weights[:] = 1.0
        weights[:1] = 0.0
        by_id = dict(reversed(notes))  # the first detail of each finding
        stops = self._stops_of(skeleton)
        return Rendered(Example(encoded.ids, weights), text, tuple(by_id.items()), stops)

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

    def _plain(self, plain: PlainText) -> Rendered:
        """Raw text between the tokens the tokenizer itself puts around it, then the end token."""
        if self._tokenizer.eos_token_id is None:
            raise DataError(
                "the tokenizer has no end-of-sequence token, so plain text could not end; set "
                "eos_token in tokenizer_config.json."
            )
        spelled = [match.span() for match in self._control.finditer(plain.text)]
        inner = (
            self._encoder.encode_around(plain.text, spelled).ids
            if spelled
            else self._encoder.ids(plain.text)
        )
        bos = self._tokenizer.bos_token_id
        adds_bos = bos is not None and self._tokenizer("a").input_ids[:1] == [bos]
        ids = np.concatenate(
            [np.array([bos] if adds_bos else [], np.int32), inner, [self._tokenizer.eos_token_id]]
        ).astype(np.int32)
        weights = np.ones(len(ids), dtype=np.float32)
        weights[0] = 0.0
        notes = (
            (("special-token-in-text", repr(plain.text[slice(*spelled[0])])),) if spelled else ()
        )
        return Rendered(Example(ids, weights), plain.text, notes, (self._tokenizer.eos_token_id,))

    def _located(
        self, conversation: Conversation, messages: list[dict[str, Any]], text: str, risky: bool
    ) -> tuple[Skeleton, Masked, Alignment]:
        """The skeleton of this shape of conversation, and how the real text lies on it."""
        masker = self._masker_for(text)
        masked = masker.mask(messages, conversation.tools, mask_tools=risky)
        if any(self._control.search(text) for text in _strings([masked.messages, masked.tools])):
            raise DataError(
                "a tool's name, parameter or call id spells a control token of the tokenizer; "
                "rename it"
            )
        turns = self._turns_of(conversation)
        key = masker.nonce + json.dumps([masked.messages, masked.tools, turns])
        control = None if risky else self._control
        known = self._skeletons.get(key)
        if known is not None:
            alignment = align(known.segments, masked.pieces, text, control)
            if alignment is not None:
                return known, masked, alignment
        # Unknown, or the date in the template has changed since.
        skeleton = build_skeleton(self.template, masker, masked, turns, self._control)
        alignment = align(skeleton.segments, masked.pieces, text, control)
        if alignment is None:
            raise DataError(
                "the chat template changes the text of a message, so what is trained cannot be "
                "told by position; change that text or give another chat_template"
            )
        if len(self._skeletons) >= MAX_SKELETONS:
            self._skeletons.pop(next(iter(self._skeletons)))
        self._skeletons[key] = skeleton
        return skeleton, masked, alignment

    def _masker_for(self, text: str) -> Masker:
        """A masker whose markers do not occur in the text."""
        masker = self._masker
        while masker.nonce in text or masker.nonce in self.template.source:
            masker = Masker(self.template.source, self._control, masker.nonce + "qx")
        return masker

    def _turns_of(self, conversation: Conversation) -> list[int]:
        turns = [i for i, m in enumerate(conversation.messages) if m["role"] == "assistant"]
        if self._trained == "completion":
            turns = turns[-1:]
        return [i for i in turns if conversation.weights[i] > 0]

    def _stops_of(self, skeleton: Skeleton) -> tuple[int, ...]:
        """Ids of the tokens that end trained turns. Where earlier turns end with another token
        than the last, only the last's: in gpt-oss the other one also ends the thinking."""
        texts = [t.stop for t in skeleton.turns if t.spans and "stop-differs" not in t.notes]
        ids = self._tokenizer.convert_tokens_to_ids
        return tuple(np.ravel([ids(text) for text in dict.fromkeys(texts)]).astype(int).tolist())

    def _spells_control(self, conversation: Conversation) -> bool:
        found = self._control.search
        return any(found(text) for text in _strings([conversation.messages, conversation.tools]))

    def _spelled(
        self, text: str, skeleton: Skeleton, alignment: Alignment
    ) -> list[tuple[int, int]]:
        """Control tokens that message text spells, wholly or in part."""
        found = [match.span() for match in self._control.finditer(text)]
        if len(found) == skeleton.num_control:
            return []
        return [
            (a, b) for a, b in found if any(start < b and a < end for start, end in alignment.texts)
        ]

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


def _check_turn(turn: Turn, skeleton: Skeleton, masked: Masked) -> None:
    own = [i for i, piece in enumerate(masked.pieces) if piece.owner == turn.message]
    if own and not any(i in skeleton.shown for i in own):
        raise DataError(f"assistant turn {turn.message}: the chat template drops all of its text")
    if turn.fault:
        raise DataError(f"assistant turn {turn.message}: {turn.fault}")
    calls = masked.messages[turn.message].get("tool_calls", ())
    written = "".join(skeleton.text[a:b] for a, b in turn.spans)
    for call in calls:
        if turn.spans and call["function"]["name"] not in written:
            raise DataError(
                f"assistant turn {turn.message}: the chat template drops its tool calls; give a "
                "chat_template that writes them"
            )


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for text in _strings(list(item))]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _strings(item)]
    return []
