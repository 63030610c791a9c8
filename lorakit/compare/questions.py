"""The questions that every way answers: held-out rows that can be asked in other words too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.prepare import Prepared
from lorakit.data.prompt import PromptRenderer
from lorakit.data.questions import last_trained_span, question
from lorakit.errors import DataError


@dataclass(frozen=True)
class AskedQuestion:
    """A held-out row.

    Attributes:
        index: of the example in its set.
        where: `file:line` of its row.
        messages: what precedes the answer; the last one is the user's.
        prompt_ids: what the model is given when it is asked plainly.
        answer_ids: int32 (A,), the right answer with what ends it.
        answer_weights: float32 (A,), the loss weight of each of these tokens.
        reference: the right answer as text.
    """

    index: int
    where: str
    messages: tuple[dict[str, Any], ...]
    prompt_ids: list[int]
    answer_ids: np.ndarray
    answer_weights: np.ndarray
    reference: str

    @property
    def text(self) -> str:
        """The question itself, which documents and examples are searched by."""
        return str(self.messages[-1]["content"])


def askable(
    conversation: Conversation | PlainText,
) -> tuple[tuple[dict[str, Any], ...], str] | None:
    """The messages up to the last answer, and that answer; None where these are not plain texts
    that end with a user's turn and an answer."""
    if isinstance(conversation, PlainText) or conversation.tools:
        return None
    messages = conversation.messages
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] != "user":
        return None
    if any(set(m) != {"role", "content"} or not isinstance(m["content"], str) for m in messages):
        return None
    return messages[:-1], str(messages[-1]["content"])


def ask(
    held_out: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    *,
    max_examples: int,
    seed: int,
) -> tuple[list[AskedQuestion], int]:
    """Draw the questions of a set.

    Returns:
        At most `max_examples` questions, in order, and how many of the set's rows could be asked.
        Others have no question, or one whose prompt is not what the chat template makes of its
        messages, so that nothing can be added to it.

    Raises:
        DataError: no row can be asked.
    """
    renderer = PromptRenderer(tokenizer)
    places = [i for i, one in enumerate(held_out.conversations) if askable(one)]
    # Those whose prompt cannot be made again are few: only as many are rendered as are needed.
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(places))
    asked: list[AskedQuestion] = []
    left_out = 0
    for place in order.tolist():
        if len(asked) == max_examples:
            break
        one = _question(held_out, places[place], renderer, tokenizer, stop_ids)
        if one is None:
            left_out += 1
        else:
            asked.append(one)
    if not asked:
        raise DataError(
            f"none of the {len(held_out.conversations)} held-out rows is a question with an answer "
            "that documents or examples could be added to. Name such rows in evaluate.in_domain: "
            "chat messages, prompt and completion, or question and answer."
        )
    return sorted(asked, key=lambda one: one.index), len(places) - left_out


def _question(
    held_out: Prepared,
    index: int,
    renderer: PromptRenderer,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
) -> AskedQuestion | None:
    example = held_out.examples[index]
    told, asked = askable(held_out.conversations[index]), question(example, index, stop_ids)
    if told is None or asked is None or renderer.ids(told[0]) != asked.prompt_ids:
        return None
    start, end = last_trained_span(example)
    reference = tokenizer.decode(
        asked.reference_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return AskedQuestion(
        index,
        held_out.rows[index].location,
        told[0],
        asked.prompt_ids,
        example.input_ids[start:end],
        example.loss_weights[start:end],
        str(reference).strip(),
    )
