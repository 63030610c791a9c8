"""Chunks: nothing is lost, nothing too long, places are true, borders are where text has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import InputError
from lorakit.retrieve.chunks import Chunk, chunks_of
from lorakit.retrieve.documents import Document


def document(text: str, path: str = "d.md") -> Document:
    return Document(path, text, tuple(range(1, text.count("\n") + 2)))


def cut(text: str, size: int, overlap: int = 0) -> list[Chunk]:
    return chunks_of([document(text)], chunk_characters=size, overlap_characters=overlap)


def test_paragraphs_stay_whole_and_say_where_they_begin() -> None:
    text = "First paragraph here.\n\n\nSecond one.\nStill the second.\n\nThird."
    chunks = cut(text, 40)
    assert [(c.text, c.line) for c in chunks] == [
        ("First paragraph here.", 1),
        ("Second one.\nStill the second.\n\nThird.", 4),
    ]
    assert chunks[1].source == "d.md:4"
    assert [c.text for c in cut(text, 200)] == [text]


def test_long_paragraphs_are_cut_at_sentences_and_overlap_by_whole_ones() -> None:
    text = 'One is here. Two is "there." Three is far. Four is not.'
    assert [c.text for c in cut(text, 30)] == [
        'One is here. Two is "there."',
        "Three is far. Four is not.",
    ]
    assert [c.text for c in cut(text, 34, overlap=17)] == [
        'One is here. Two is "there."',
        'Two is "there." Three is far.',
        "Three is far. Four is not.",
    ]


def test_a_heading_goes_with_what_follows_it() -> None:
    text = "# A\n\nSome words about A, quite a few.\n\n# B\n\nSome words about B."
    assert [c.text for c in cut(text, 45)] == [
        "# A\n\nSome words about A, quite a few.",
        "# B\n\nSome words about B.",
    ]


def test_a_sentence_longer_than_a_chunk_is_cut_at_words_and_a_longer_word_anywhere() -> None:
    assert [c.text for c in cut("aaa bbb ccc ddd", 8)] == ["aaa bbb", "ccc ddd"]
    assert [c.text for c in cut("a" * 20, 8)] == ["a" * 8, "a" * 8, "a" * 4]


def test_chunks_never_span_documents() -> None:
    both = [document("One.", "a.md"), document("Two.", "b.md")]
    assert [(c.text, c.path) for c in chunks_of(both)] == [("One.", "a.md"), ("Two.", "b.md")]


def test_rows_are_cited_by_their_own_line() -> None:
    row = Document("r.jsonl", "One.\n\nTwo.", (7, 7, 7))
    assert [c.line for c in chunks_of([row], chunk_characters=6, overlap_characters=0)] == [7, 7]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 6), (10, -1)])
def test_sizes_that_cannot_work(size: int, overlap: int) -> None:
    with pytest.raises(InputError, match="overlap of 0 to half of that"):
        cut("text", size, overlap)


pieces = st.sampled_from(
    ["word", "End. ", "\n", "\n\n", "# Head\n", " ", "long" * 9, "。", "- a\n", '."']
)


@given(st.lists(pieces, max_size=60).map("".join), st.integers(1, 60), st.data())
def test_nothing_is_lost_or_too_long_and_every_place_is_true(
    text: str, size: int, data: st.DataObject
) -> None:
    lines, bare = text.split("\n"), "".join(text.split())
    apart = cut(text, size)
    assert "".join("".join(chunk.text.split()) for chunk in apart) == bare
    chunks = cut(text, size, data.draw(st.integers(0, size // 2)))
    assert len(chunks) >= 1 if bare else not chunks
    for chunk in (*apart, *chunks):
        assert 0 < len(chunk.text) <= size and chunk.text in text
        assert chunk.text == chunk.text.strip()
        assert chunk.text.split("\n")[0].strip() in lines[chunk.line - 1]
    # Chunks with an overlap tell the same in the same order, some of it twice.
    left = iter("".join(chunk.text for chunk in chunks))
    assert all(character in left for character in bare)
