"""Tokens of the built-in base: single digits, control tokens, all bytes, marked answers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lorakit.builtin import corpus, model_folder, tokenizer

CONTROL = (tokenizer.PAD, tokenizer.END, *tokenizer.TURNS)
TEXTS = (
    "A dose of 1250 mg, 37.5 degrees, 120/80 mmHg.",
    "  two  spaces\n\n\tand a tab \r\n",
    "naive caf\u00e9, \u03b2-blocker, \u4e2d\u6587, \U0001f600",
    "<think>12 + 3 = 15</think><answer>15</answer>",
    "".join(map(chr, range(1, 300))),
)


@pytest.fixture(scope="module", params=["fresh", "shipped"])
def tokens(request: pytest.FixtureRequest, tmp_path_factory) -> PreTrainedTokenizerBase:
    """A tokenizer trained here and saved, and the one that ships."""
    if request.param == "shipped":
        return AutoTokenizer.from_pretrained(model_folder())
    streams = [
        corpus.part_documents(part, Path(), seed=0, phase="test")
        for part in sorted(corpus.GENERATED_PARTS)
    ]
    documents = [d for stream in streams for d in itertools.islice(stream, 100)]
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [document.content() for document in documents]
    tokenizer.train_tokenizer(texts, vocab_size=600).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def encode(tokens: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokens(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(tokens: PreTrainedTokenizerBase, text: str) -> None:
    assert tokens.decode(encode(tokens, text), clean_up_tokenization_spaces=False) == text


def test_digits_are_single_tokens(tokens: PreTrainedTokenizerBase) -> None:
    vocabulary = tokens.get_vocab()
    assert not [t for t in vocabulary if sum(c.isdigit() for c in t) and len(t) > 1 and t.isascii()]
    assert tokens.tokenize("907") == ["9", "0", "7"]


def test_control_tokens_are_single_distinct_and_special(tokens: PreTrainedTokenizerBase) -> None:
    ids = [encode(tokens, token) for token in CONTROL]
    assert ids == [[number] for number in range(len(CONTROL))]
    assert set(CONTROL) <= set(tokens.all_special_tokens)
    assert (tokens.pad_token, tokens.eos_token) == (tokenizer.PAD, tokenizer.END)
    assert tokens.bos_token is None


def test_reasoning_tokens_are_single_and_stay_in_decoded_text(
    tokens: PreTrainedTokenizerBase,
) -> None:
    assert all(len(encode(tokens, token)) == 1 for token in tokenizer.REASONING)
    text = "".join(tokenizer.REASONING)
    assert tokens.decode(encode(tokens, text), skip_special_tokens=True) == text


def test_the_template_marks_exactly_what_the_assistant_writes(
    tokens: PreTrainedTokenizerBase,
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "<think>2 + 2 = 4</think><answer>4</answer>"},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "You are welcome."},
    ]
    made = tokens.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [
        id_ for id_, mark in zip(made["input_ids"], made["assistant_masks"], strict=True) if mark
    ]
    written = [m["content"] + tokenizer.END for m in messages if m["role"] == "assistant"]
    assert marked == [id_ for text in written for id_ in encode(tokens, text)]


def test_a_prompt_is_the_beginning_of_the_whole_chat(tokens: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    prompt = tokens.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    whole = tokens.apply_chat_template(messages, tokenize=False)
    assert whole == prompt + "Hello!" + tokenizer.END
    assert encode(tokens, whole)[: len(encode(tokens, prompt))] == encode(tokens, prompt)


def test_an_unknown_role_is_refused(tokens: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Exception, match="not tool"):
        tokens.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
