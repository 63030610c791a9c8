"""Stop tokens are read off the ends of trained spans."""

from __future__ import annotations

import numpy as np

from lorakit.data.examples import Example, examples_in_memory
from lorakit.data.prepare import DataRules, prepare_examples
from lorakit.data.stops import stop_token_ids
from tests import tiny


def test_a_chat_stops_with_its_end_of_turn_token() -> None:
    tokenizer = tiny.tokenizer()
    turns = [("user", "What is asthma?"), ("assistant", "A disease."), ("user", "Cure?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = [{"messages": [*messages, {"role": "assistant", "content": "No."}]}]
    prepared = prepare_examples(rows, tokenizer, DataRules())
    assert stop_token_ids(prepared.examples) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_frequent_stops_come_first_and_wholly_trained_examples_have_none() -> None:
    def example(ids: list[int], weights: list[float]) -> Example:
        return Example(np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32))

    examples = [
        example([9, 1, 7, 2, 8], [0, 1, 1, 0, 1]),
        example([9, 1, 8], [0, 0.5, 0.5]),
        example([9, 9, 4, 8], [0, 0, 1, 1]),
        example([9, 5, 6], [0, 1, 1]),
    ]
    assert stop_token_ids(examples_in_memory(examples, "x")) == [8, 7]
