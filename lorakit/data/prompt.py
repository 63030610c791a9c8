"""What a model is given when it is asked to answer: the very tokens it saw before an answer in
training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.conversation import Conversation
from lorakit.data.render import Renderer

# Stands where the answer will: rendered with it, the tokens before it are the prompt.
ANSWER = {"role": "assistant", "content": "answer"}


class PromptRenderer:
    """Renders prompts for one tokenizer and its chat template.

    A conversation is rendered as in training, with an answer that is then cut off. So its ids equal
    `apply_chat_template(messages, add_generation_prompt=True)` wherever training's did, and text
    that spells a special token stays text.

    Raises:
        DataError: as in `Renderer`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = Renderer(tokenizer, trained="completion")

    def ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The prompt's token ids.

        Args:
            messages: with `role` and `content`; the last one is not the assistant's.

        Raises:
            DataError: the template refuses the messages.
        """
        whole = Conversation((*messages, ANSWER), (1.0,) * (len(messages) + 1))
        example = self._renderer.render(whole)
        answered = int(np.flatnonzero(example.loss_weights)[0])
        return [int(token) for token in example.input_ids[:answered]]
