"""What a model is given when it is asked to answer: the very tokens it saw before an answer in
training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from lorakit.data.template import ChatTemplate, fold_system
from lorakit.data.tokens import Encoder

Span = tuple[int, int]


class PromptRenderer:
    """Renders prompts for one tokenizer and its chat template.

    The ids equal `apply_chat_template(messages, add_generation_prompt=True)`. As in training, text
    that spells a special token stays text.

    Raises:
        DataError: as in `Renderer`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._template = ChatTemplate(tokenizer)
        tokens = self._template.control_tokens()
        self._control = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        self._encoder = Encoder(tokenizer, self._control)

    def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The prompt's token ids.

        Args:
            messages: with `role` and `content`; the last one is not the assistant's.

        Raises:
            DataError: the template refuses the messages.
        """
        folds = self._template.folds_system(messages)
        said: list[dict[str, Any]] = fold_system(messages) if folds else [*messages]
        spelled = [found for m in said for found in self._control.findall(m["content"])]
        markers = self._markers(said, len(spelled))
        unused = iter(markers)
        masked = [
            m | {"content": self._control.sub(lambda _: next(unused), m["content"])} for m in said
        ]
        text = self._template.render(self._template.messages_for(masked), prompt=True)
        text, spans = _put_back(text, dict(zip(markers, spelled, strict=True)))
        if spans:
            encoded = self._encoder.encode_around(text, spans)
        else:
            encoded = self._encoder.encode([text])[0]
        return [int(token) for token in encoded.ids]

    def _markers(self, messages: Sequence[dict[str, Any]], count: int) -> list[str]:
        """Words that occur neither in the messages nor in the template."""
        texts = [self._template.source, *(message["content"] for message in messages)]
        nonce = "mq"
        while any(nonce in text for text in texts):
            nonce += "qx"
        return [f"{nonce}{number}z" for number in range(count)]


def _put_back(text: str, spelled: dict[str, str]) -> tuple[str, list[Span]]:
    """The text with each marker replaced by what it stands for, and where that lies now."""
    if not spelled:
        return text, []
    pieces: list[str] = []
    spans: list[Span] = []
    at = length = 0
    for match in re.finditer("|".join(spelled), text):
        pieces += [text[at : match.start()], spelled[match.group()]]
        start = length + match.start() - at
        length = start + len(pieces[-1])
        spans.append((start, length))
        at = match.end()
    return "".join([*pieces, text[at:]]), spans
