"""How the text of a conversation is made up: found on masked messages, once per shape."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.alignment import Alignment, align, align_filled, fill
from lorakit.data.boundaries import BoundaryFinder
from lorakit.data.located import Located, Shape, Shaped, fault_of, strings_in
from lorakit.data.lossless import dropped_notes
from lorakit.data.masking import Masked, Masker
from lorakit.data.skeleton import Skeleton, build_skeleton
from lorakit.data.template import ChatTemplate
from lorakit.data.verbatim import copies_text
from lorakit.errors import DataError

MAX_SHAPES = 4096
# Longer conversations are rendered, so that the limit on what a template writes is one for all.
MAX_COPIED = 1 << 20  # characters


class Locator:
    """Locates messages and trained turns in what one template writes. Threads may share it.

    Args:
        tokenizer: a fast tokenizer.
        template: its chat template.
        control: matches every control token.
        boundaries: of the same tokenizer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: ChatTemplate,
        control: re.Pattern[str],
        boundaries: BoundaryFinder,
    ) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._control, self._boundaries = control, boundaries
        self._masker = Masker(template.source, control, "mq")
        self._copies = copies_text(template.source)
        self._shapes: dict[Hashable, Shape] = {}
        self._lock = threading.Lock()

    def locate(self, shaped: Shaped, text: str) -> Located:
        """Where everything lies in the text that the template made of shaped messages.

        Raises:
            DataError: it cannot be told, or a turn cannot be trained.
        """
        risky = self._spells_any([shaped.conversation.messages, shaped.conversation.tools])
        masker = self._masker_for(text)
        masked = masker.mask(shaped.messages, shaped.conversation.tools, mask_tools=risky)
        control = None if risky else self._control
        key = masker.nonce + json.dumps([masked.messages, masked.tools, shaped.turns])
        shape, alignment = self._shapes.get(key), None
        if shape is not None:
            alignment = align(shape.skeleton.segments, masked.pieces, text, control)
        if shape is None or alignment is None:  # unknown, or the date in the template has changed
            shape = self._new_shape(key, shaped, masker, masked)
            alignment = align(shape.skeleton.segments, masked.pieces, text, control)
        if alignment is None:
            raise DataError(
                "the chat template changes the text of a message, so what is trained cannot be "
                "told by position; change that text or give another chat_template"
            )
        if shape.fault is not None:
            raise shape.fault
        known = partial(_itself, alignment)
        return Located(shape, masked, known, self._spelled(text, shape.skeleton, known))

    def written(self, shaped: Shaped) -> tuple[str, Located] | None:
        """The text of a conversation as its template writes it, and how it is made up.

        Returns:
            None if only rendering it can tell: the template may look at what messages say, the
            messages are more than a role and a text, or something is wrong with them.
        """
        conversation, messages = shaped.conversation, shaped.messages
        says: list[Any] = [m.get("content") for m in messages if len(m) == 2]  # and a role
        if not self._copies or conversation.tools or len(says) < len(messages):
            return None
        if not all(type(text) is str for text in says):
            return None
        said = "\0".join(says)
        if len(said) > MAX_COPIED or self._masker.nonce in said or self._control.search(said):
            return None
        masked = self._masker.mask_texts(messages)
        key = (*((m["role"], m["content"]) for m in masked.messages), *shaped.turns)
        shape = self._shapes.get(key)
        if shape is None:
            try:
                shape = self._new_shape(key, shaped, self._masker, masked)
            except DataError:
                return None
        if shape.fault is not None:
            return None
        text = fill(shape.skeleton.segments, masked.pieces)
        alignment = partial(align_filled, shape.skeleton.segments, masked.pieces)
        spelled = self._spelled(text, shape.skeleton, alignment)
        return text, Located(shape, masked, alignment, spelled)

    def _new_shape(self, key: Hashable, shaped: Shaped, masker: Masker, masked: Masked) -> Shape:
        """The shape of a conversation, found out.

        Raises:
            DataError: the template refuses it, or its tools spell a control token.
        """
        if self._spells_any([masked.messages, masked.tools]):
            raise DataError(
                "a tool's name, parameter or call id spells a control token of the tokenizer; "
                "rename it"
            )
        skeleton = build_skeleton(self._template, masker, masked, shaped.turns, self._control)
        boundaries = self._boundaries.boundaries(skeleton, masker)
        keeps_all = not dropped_notes(skeleton, masked, shaped.conversation, skeleton.text)
        stops = self._stops_of(skeleton)
        shape = Shape(skeleton, boundaries, keeps_all, stops, fault_of(skeleton, masked))
        with self._lock:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.pop(next(iter(self._shapes)))
            self._shapes[key] = shape
        return shape

    def _masker_for(self, text: str) -> Masker:
        """A masker whose markers do not occur in the text."""
        masker = self._masker
        while masker.nonce in text or masker.nonce in self._template.source:
            masker = Masker(self._template.source, self._control, masker.nonce + "qx")
        return masker

    def _stops_of(self, skeleton: Skeleton) -> tuple[int, ...]:
        """Ids of the tokens that end trained turns. Where earlier turns end with another token
        than the last, only the last's: in gpt-oss the other one also ends the thinking."""
        texts = [t.stop for t in skeleton.turns if t.spans and "stop-differs" not in t.notes]
        ids = self._tokenizer.convert_tokens_to_ids
        return tuple(np.ravel([ids(text) for text in dict.fromkeys(texts)]).astype(int).tolist())

    def _spells_any(self, value: object) -> bool:
        # One search: no control token holds the character between them.
        return self._control.search("\0".join(strings_in(value))) is not None

    def _spelled(
        self, text: str, skeleton: Skeleton, alignment: Callable[[], Alignment]
    ) -> list[tuple[int, int]]:
        """Control tokens that message text spells, wholly or in part."""
        if len(self._control.findall(text)) == skeleton.num_control:
            return []
        found = [match.span() for match in self._control.finditer(text)]
        texts = alignment().texts
        return [(a, b) for a, b in found if any(start < b and a < end for start, end in texts)]


def _itself(alignment: Alignment) -> Alignment:
    return alignment
