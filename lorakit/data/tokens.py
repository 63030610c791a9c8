"""Text to token ids with character offsets; text that spells a control token stays text.

T tokens.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """Token ids int32 (T,) and the characters each covers: starts and ends int64 (T,)."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class Encoder:
    """Encodes rendered text exactly as `apply_chat_template(tokenize=True)` does.

    Args:
        tokenizer: a fast tokenizer (one that reports character offsets).
        control: matches every control token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: re.Pattern[str]) -> None:
        if not tokenizer.is_fast:
            raise DataError(
                f"{type(tokenizer).__name__} reports no character offsets, so trained positions "
                "cannot be told; a fast tokenizer (tokenizer.json) is needed. Convert it with "
                "transformers' AutoTokenizer and save it."
            )
        self._tokenizer = tokenizer
        self._control = control
        added = tokenizer.added_tokens_decoder
        self._control_ids = np.array(
            sorted(id for id, token in added.items() if control.fullmatch(token.content)), np.int32
        )
        self._newline = self.ids("\n").tolist()

    def ids(self, text: str) -> np.ndarray:
        """Token ids int32 (T,) without special tokens added around the text."""
        return self.encode([text])[0].ids

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode a batch of texts."""
        batch = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [
            encoded_from(ids, offsets)
            for ids, offsets in zip(batch.input_ids, batch.offset_mapping, strict=True)
        ]

    def encode_around(self, text: str, plain: Sequence[tuple[int, int]]) -> Encoded:
        """Encode text in pieces: the ranges in `plain` spell control tokens but are plain text.

        Raises:
            DataError: the tokenizer makes a control token of such a range whatever is done.
        """
        pieces: list[Encoded] = []
        at = 0
        for start, end in [*plain, (len(text), len(text))]:
            if start > at:
                pieces.append(_shifted(self._part(text[at:start], bool(at)), at))
            if end > start:
                pieces.append(self._as_text(text, start, end))
            at = end
        return Encoded(
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.starts for piece in pieces]),
            np.concatenate([piece.ends for piece in pieces]),
        )

    @cached_property
    def _splitting(self) -> PreTrainedTokenizerBase:
        """A copy for text that spells control tokens: such a call changes the tokenizer's backend,
        which may be at work in another thread."""
        return copy.deepcopy(self._tokenizer)

    def num_control(self, ids: np.ndarray) -> int:
        """How many of the ids are control tokens."""
        return int(np.isin(ids, self._control_ids).sum())

    def _as_text(self, text: str, start: int, end: int) -> Encoded:
        whole = self._part(text[start:end], bool(start), split_special=True)
        if self.num_control(
            whole.ids
        ):  # an added token that is not special: only breaking it helps
            halves = [self._part(text[i : i + 1], True) for i in range(start, end)]
            joined = [_shifted(half, start + i) for i, half in enumerate(halves)]
            if any(self.num_control(half.ids) for half in halves):
                raise DataError(
                    f"the text spells the control token {text[start:end]!r}, and the tokenizer has "
                    "no other way to write it. Remove it from the row."
                )
            return Encoded(
                np.concatenate([half.ids for half in joined]),
                np.concatenate([half.starts for half in joined]),
                np.concatenate([half.ends for half in joined]),
            )
        return _shifted(whole, start)

    def _part(self, text: str, inner: bool, *, split_special: bool = False) -> Encoded:
        """A part of a text. An inner one is encoded after a newline that is then removed, because
        SentencePiece tokenizers write a space before the start of a text."""
        lead = "\n" if inner else ""
        tokenizer = self._splitting if split_special else self._tokenizer
        batch = tokenizer(
            lead + text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=split_special,
            verbose=False,
        )
        encoded = encoded_from(batch.input_ids, batch.offset_mapping)
        count = len(self._newline)
        if not inner:
            return encoded
        if encoded.ids[:count].tolist() == self._newline:
            kept = _shifted(encoded, -1)
            return Encoded(kept.ids[count:], kept.starts[count:], kept.ends[count:])
        return self._part(text, False, split_special=split_special)


def encoded_from(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Encoded:
    """Encoded of plain lists: T ids, and T (start, end) of the characters they cover."""
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    return Encoded(np.asarray(ids, dtype=np.int32), spans[:, 0], spans[:, 1])


def _shifted(encoded: Encoded, by: int) -> Encoded:
    return Encoded(encoded.ids, encoded.starts + by, encoded.ends + by)
