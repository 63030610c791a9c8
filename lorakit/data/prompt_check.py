"""Whether the tokens before a trained turn are those the model is given when asked to answer."""

from __future__ import annotations

import re

import numpy as np

from lorakit.data.located import Located
from lorakit.data.lossless import Note
from lorakit.data.tokens import Encoded, Encoder
from lorakit.errors import DataError

MAX_TAILS = 4096


class PromptCheck:
    """Compares each trained turn's prefix with the generation prompt, text and ids.

    Ids are compared from the prompt's last control token on: control tokens cut the text before
    anything else is tokenized, so what stands before that one is equal when the text is.
    """

    def __init__(self, encoder: Encoder, control: re.Pattern[str]) -> None:
        self._encoder, self._control = encoder, control
        self._tails: dict[str, list[int]] = {}

    def notes(
        self,
        located: Located,
        encoded: Encoded | None,
        text: str,
        asked: str | DataError | None,
    ) -> list[Note]:
        """A `prefix-mismatch` for the first turn that differs.

        Args:
            located: how the text is made up.
            encoded: of the text; None: the ids are known to begin with those of every prompt.
            text: of the row.
            asked: the last turn's prompt, rendered anew; those of earlier turns follow from the
                masked rendering. What its rendering raised is raised here. None: the template
                copies texts, so that this one follows from the masked rendering as well.
        """
        if encoded is None and asked is None:
            return []
        turns = located.shape.skeleton.turns
        for turn in turns:
            if not turn.spans or not turn.prompt_agrees or turn.message == 0:
                continue
            prompt = text[: located.alignment.real(len(turn.prompt))]
            if turn is turns[-1] and asked is not None:
                if isinstance(asked, DataError):
                    raise asked
                if asked != prompt:
                    return [("prefix-mismatch", f"the prompt ends in {asked[-40:]!r}")]
            fault = "" if encoded is None else self._merged(prompt, encoded)
            if fault:
                return [("prefix-mismatch", fault)]
        return []

    def _merged(self, prompt: str, encoded: Encoded) -> str:
        """Why the prompt's ids are no prefix of the encoded ones, or ""."""
        tokens = list(self._control.finditer(prompt))
        at = tokens[-1].start() if tokens else 0
        tail = prompt[at:]
        if tail not in self._tails:
            if len(self._tails) >= MAX_TAILS:
                self._tails.clear()
            self._tails[tail] = self._encoder.ids(tail).tolist()
        expected = self._tails[tail]
        first = int(np.searchsorted(encoded.starts, at))
        if encoded.ids[first : first + len(expected)].tolist() == expected:
            return ""
        return f"the prompt's last tokens, {tail[-40:]!r}, merge with the answer's first"
