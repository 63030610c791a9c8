"""Where trained spans begin and end among the token ids, without character offsets.

Control tokens cut a text before anything else is tokenized, so the k-th control token of the text
is the k-th control id. A position that only literal text of the template parts from the control
token before it therefore lies a fixed number of ids behind that id - if the ids there are those of
that literal text alone. Where they are not (the answer's first letters merge with the header), or
where there is no such control token, nothing is told and the offsets have to say.

T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.masking import Masker
from lorakit.data.skeleton import Skeleton
from lorakit.data.tokens import Encoder


@dataclass(frozen=True)
class _Boundary:
    control: int  # which of the text's control tokens it lies behind
    num_ids: int  # of the text from that control token up to it
    ids: bytes  # those ids, int32


@dataclass(frozen=True)
class Boundaries:
    """Of one skeleton.

    Attributes:
        control_ids: of the control tokens in order, int32 as bytes.
        places: every boundary, among them where the prompt of a turn ends that is a part of the
            text.
        spans: of each turn's spans, which of the places are the first and the last.
    """

    control_ids: bytes
    places: tuple[_Boundary, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]


class BoundaryFinder:
    """Finds spans in the ids of one tokenizer.

    Args:
        tokenizer: a fast tokenizer.
        control: matches every control token.
        encoder: of the same tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control: re.Pattern[str], encoder: Encoder
    ) -> None:
        added = tokenizer.added_tokens_decoder
        self._control, self._encoder = control, encoder
        self._ids = {t.content: i for i, t in added.items() if control.fullmatch(t.content)}
        self._is_control = np.zeros(max([len(tokenizer), *(i + 1 for i in added)]), dtype=bool)
        self._is_control[list(self._ids.values())] = True
        self._unknown = tokenizer.unk_token_id
        # One that swallows the white space before it begins somewhere else than its text.
        self._applies = not any(t.lstrip for t in added.values() if t.content in self._ids)

    def boundaries(self, skeleton: Skeleton, masker: Masker) -> Boundaries | None:
        """The boundaries of a skeleton; None if one of them cannot be told this way."""
        controls = list(self._control.finditer(skeleton.text))
        if not self._applies or any(match.group() not in self._ids for match in controls):
            return None

        positions: dict[int, int] = {}  # characters, and their places in the order found

        def place(position: int) -> int:
            return positions.setdefault(position, len(positions))

        spans = []
        for turn in skeleton.turns:
            spans.append(tuple((place(start), place(end)) for start, end in turn.spans))
            if turn.spans and turn.prompt_agrees and turn.message:
                place(len(turn.prompt))
        found = [self._boundary(at, skeleton.text, controls, masker) for at in positions]
        places = tuple(one for one in found if one is not None)
        if len(places) < len(found):
            return None
        control_ids = np.array([self._ids[match.group()] for match in controls], dtype=np.int32)
        return Boundaries(control_ids.tobytes(), places, tuple(spans))

    def slices(self, boundaries: Boundaries, ids: np.ndarray) -> list[list[slice]] | None:
        """The trained tokens of each turn; None if these ids need their offsets.

        Args:
            ids: int32 (T,).
        """
        (controls,) = self._is_control.take(ids).nonzero()
        if ids.take(controls).tobytes() != boundaries.control_ids:
            return None
        starts, places = controls.tolist(), []
        for boundary in boundaries.places:
            start = starts[boundary.control]
            end = start + boundary.num_ids
            if ids[start:end].tobytes() != boundary.ids:
                return None
            places.append(end)
        return [[slice(places[a], places[b]) for a, b in pairs] for pairs in boundaries.spans]

    def _boundary(
        self, position: int, text: str, controls: Sequence[re.Match[str]], masker: Masker
    ) -> _Boundary | None:
        before = [i for i, match in enumerate(controls) if match.start() < position]
        if not before:
            return None
        control = controls[before[-1]]
        tail = text[control.start() : position]
        if position < control.end() or masker.pattern.search(tail):
            return None
        ids = self._encoder.ids(tail)
        listed = ids.tolist()
        if listed[:1] != [self._ids[control.group()]] or self._unknown in listed[1:]:
            return None
        return _Boundary(before[-1], len(ids), ids.tobytes())
