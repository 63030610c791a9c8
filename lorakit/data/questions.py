"""Examples as questions: a prompt, and the answer that is right.

The prompt of an example is what precedes its last trained span, and the reference that span without
its stop token: the model is asked exactly what it will be asked when served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.examples import Example, ExampleSet


@dataclass(frozen=True)
class Question:
    """An example as it is asked.

    Attributes:
        index: of the example in its set.
        prompt_ids: what the model is given.
        reference_ids: the right answer, without a stop token.
    """

    index: int
    prompt_ids: list[int]
    reference_ids: list[int]


def question(example: Example, index: int, stop_ids: Sequence[int]) -> Question | None:
    """The example as a question; None where it has no prompt, as plain text has none.

    The first token alone, which nothing can predict, is no prompt.
    """
    start, end = last_trained_span(example)
    if start < 2:
        return None
    answer = example.input_ids[start:end]
    stops = np.flatnonzero(np.isin(answer, np.asarray(stop_ids, answer.dtype)))
    if len(stops):
        answer = answer[: stops[-1]]
    return Question(index, example.input_ids[:start].tolist(), answer.tolist())


def last_trained_span(example: Example) -> tuple[int, int]:
    """Start and end of the last run of trained tokens: the answer that is learned."""
    end = int(np.flatnonzero(example.loss_weights)[-1]) + 1
    start = int(np.flatnonzero(example.loss_weights[:end] == 0)[-1]) + 1
    return start, end


def questions(
    examples: ExampleSet, indices: Sequence[int], stop_ids: Sequence[int]
) -> list[Question]:
    """The questions among the examples at `indices`, in order."""
    found = (question(examples[index], index, stop_ids) for index in indices)
    return [one for one in found if one is not None]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """A reference's or an answer's text, without special tokens."""
    # As answers are decoded: cleaned up, a reference would lose spaces that its answer keeps.
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()


def decoded_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Sequence[int]]
) -> list[str]:
    """Their texts, with a line break in the place of special tokens: in many templates nothing
    else stands between a system message and the user's."""
    control = set(control_ids(tokenizer))
    texts = []
    for ids in prompts:
        stretches = groupby(ids, key=control.__contains__)
        parts = [decoded(tokenizer, list(part)) for is_control, part in stretches if not is_control]
        texts.append("\n".join(part for part in parts if part))
    return texts


def control_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that no text has: those that decoding leaves out."""
    return [id for id, token in tokenizer.added_tokens_decoder.items() if token.special]
