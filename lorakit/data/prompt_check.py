"""Whether the tokens before a trained turn are those the model is given when asked to answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorakit.data.alignment import Alignment
from lorakit.data.skeleton import Turn
from lorakit.data.template import ChatTemplate
from lorakit.data.tokens import Encoded, Encoder

MAX_TAILS = 4096


class PromptCheck:
    """Compares each trained turn's prefix with the generation prompt, text and ids.

    Ids are compared from the prompt's last control token on: control tokens cut the text before
    anything else is tokenized, so what stands before that one is equal when the text is.
    """

    def __init__(self, template: ChatTemplate, encoder: Encoder, control: re.Pattern[str]) -> None:
        self._template, self._encoder, self._control = template, encoder, control
        self._tails: dict[str, list[int]] = {}

    def notes(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        turns: Sequence[Turn],
        alignment: Alignment,
        encoded: Encoded,
        text: str,
    ) -> list[tuple[str, str]]:
        """A `prefix-mismatch` for the first turn that differs; the last turn's prompt is rendered
        anew, those of earlier turns follow from the masked rendering."""
        for turn in turns:
            if not turn.spans or not turn.prompt_agrees or turn.message == 0:
                continue
            prompt = text[: alignment.real(len(turn.prompt))]
            if turn is turns[-1]:
                asked = self._template.render(messages[: turn.message], tools, prompt=True)
                if asked != prompt:
                    return [("prefix-mismatch", f"the prompt ends in {asked[-40:]!r}")]
            fault = self._merged(prompt, encoded)
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
