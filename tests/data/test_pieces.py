"""The text of examples token by token: nothing lost, nothing doubled, trained where trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lorakit.data.examples import Example
from lorakit.data.pieces import UNFINISHED, pieces_of
from tests import tiny

TOKENIZER = tiny.tokenizer()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def example_of(ids: list[int], trained: list[bool]) -> Example:
    return Example(np.array(ids, np.int32), np.array(trained, np.float32))


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@given(TEXTS, TEXTS)
@settings(deadline=None, max_examples=150)
def test_pieces_are_the_text_whatever_its_characters(prompt: str, answer: str) -> None:
    ids = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer)]
    trained = [False] * len(ids[0]) + [True] * len(ids[1])
    pieces = pieces_of(TOKENIZER, example_of(ids[0] + ids[1], trained))
    assert "".join(one.text for one in pieces) == prompt + answer
    assert "".join(one.text for one in pieces if one.trained) == answer
    if UNFINISHED not in prompt + answer:
        assert not any(UNFINISHED in one.text for one in pieces)


@pytest.mark.parametrize("name", ["stories260K", "bitllama-1M"])
def test_pieces_of_published_tokenizers_are_their_text(name: str, shared_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / name)
    text = "Once upon a time: fever 38.5 \u00b0C,\n\n na\u00efve \U0001f600 \u0645\u0627 end"
    ids = tokenizer(text)["input_ids"]
    trained = [index % 7 == 0 for index in range(len(ids))]
    whole = pieces_of(tokenizer, example_of(ids, [False] * len(ids)))
    assert "".join(one.text for one in whole) == decoded(tokenizer, ids)
    assert not any(UNFINISHED in one.text for one in whole)
    assert len(whole) > len(ids) / 3
    # Where training begins or ends inside a character, pieces still never mix.
    for one in pieces_of(tokenizer, example_of(ids, trained)):
        assert isinstance(one.trained, bool)


def test_special_tokens_are_shown_and_a_part_is_a_part() -> None:
    ids = TOKENIZER("<|im_start|>user\nhi<|im_end|>", add_special_tokens=False)["input_ids"]
    example = example_of(ids, [False] * len(ids))
    assert pieces_of(TOKENIZER, example)[0].text == "<|im_start|>"
    assert pieces_of(TOKENIZER, example)[-1].text == "<|im_end|>"
    part = pieces_of(TOKENIZER, example, start=1, end=len(ids) - 1)
    assert "".join(one.text for one in part) == "user\nhi"
    assert pieces_of(TOKENIZER, example, start=2, end=2) == []
