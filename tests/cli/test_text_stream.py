"""Streamed text is the whole text, in whole characters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.cli.chat.text_stream import INCOMPLETE, TextStream
from tests import tiny

TOKENIZER = tiny.tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_pieces_are_whole_characters_and_make_the_text(text: str) -> None:
    ids = TOKENIZER(text.replace("<", ""), add_special_tokens=False).input_ids
    whole = TOKENIZER.decode(ids)
    stream = TextStream(TOKENIZER)
    pieces = [stream.add(token) for token in ids]
    if INCOMPLETE not in whole:
        assert INCOMPLETE not in "".join(pieces)
    assert "".join(pieces) + stream.rest(whole) == whole == stream.shown


def test_a_character_is_held_back_until_its_last_byte() -> None:
    ids = TOKENIZER("a\U0001f600b", add_special_tokens=False).input_ids
    assert len(ids) == 6
    stream = TextStream(TOKENIZER)
    assert [stream.add(token) for token in ids] == ["a", "", "", "", "\U0001f600", "b"]


def test_bytes_that_are_no_character_come_with_what_follows() -> None:
    first_byte, letter = TOKENIZER("\U0001f600a", add_special_tokens=False).input_ids[::4]
    stream = TextStream(TOKENIZER)
    assert [stream.add(first_byte), stream.add(letter)] == ["", f"{INCOMPLETE}a"]
    assert stream.add(first_byte) == ""
    assert stream.rest(f"{INCOMPLETE}a{INCOMPLETE}") == INCOMPLETE


def test_end_tokens_and_special_tokens_are_not_shown() -> None:
    letter = TOKENIZER.convert_tokens_to_ids("a")
    stream = TextStream(TOKENIZER, hidden=[letter])
    other = TOKENIZER.convert_tokens_to_ids("b")
    assert [stream.add(token) for token in (letter, END, other)] == ["", "", "b"]
