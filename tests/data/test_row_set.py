"""What is kept of rows and examples: hashes that tell different ones apart, arrays as they came."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from lorakit.data import store
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import Example, fingerprint_of
from lorakit.data.row_set import content_of

_PARTS = [{"type": "text", "text": "b"}]
DIFFERENT: list[Conversation | PlainText] = [
    Conversation.of(("user", "ab"), ("assistant", "c")),
    Conversation.of(("user", "a"), ("assistant", "bc")),
    Conversation.of(("user", "aassistantb"), ("assistant", "c")),
    Conversation.of(("user", "ab"), ("user", "c")),
    Conversation.of(("user", "ab"), ("assistant", ""), ("assistant", "c")),
    Conversation.of(("user", "abassistantc")),
    Conversation.of(("user", "ab\ud800"), ("assistant", "c")),
    Conversation.of(("user", "\u00e4b"), ("assistant", "c")),
    Conversation(
        ({"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}), (1, 0)
    ),
    Conversation(({"role": "user", "content": "b"},), (1.0,)),
    Conversation(({"role": "user", "content": _PARTS},), (1.0,)),
    Conversation(({"role": "user", "content": str(_PARTS)},), (1.0,)),
    Conversation(({"role": "user", "content": "b", "name": "n"},), (1.0,)),
    Conversation(({"role": "user", "content": "b"},), (1.0,), ({"name": "tool"},)),
    PlainText("ab"),
]


def test_what_rows_mean_is_told_apart() -> None:
    said = [content_of(one) for one in DIFFERENT]
    for one, other in itertools.combinations(said, 2):
        assert one != other
    # Nor does a text that spells the bytes of another row mean that row.
    spelled = [PlainText(one.decode("utf-8", "surrogatepass")) for one in said]
    assert not {content_of(one) for one in spelled} & set(said)


def test_equal_rows_mean_the_same_however_they_were_made() -> None:
    made = Conversation.of(("user", "a"), ("assistant", "b"))
    messages = ({"content": "a", "role": "user"}, {"content": "b", "role": "assistant"})
    assert content_of(made) == content_of(Conversation(messages, (1.0, 1.0)))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("tokens", [1, 5, 1000])
def test_examples_come_back_from_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, tokens: int
) -> None:
    """However many of them are written together."""
    monkeypatch.setattr(store, "_WAITING_EXAMPLES", 3)
    monkeypatch.setattr(store, "_WAITING_TOKENS", tokens)
    examples = [
        Example(np.arange(i, 3 * i + 1, dtype=np.int32), np.arange(2 * i + 1, dtype=np.float32) / 2)
        for i in range(count)
    ]
    made = store.write_store(tmp_path, "key", examples, range(count), {})
    assert made.fingerprint == fingerprint_of(examples)
    again = store.open_store(tmp_path, "key")
    assert again is not None and len(again) == count
    for one, expected in zip(map(again.__getitem__, range(count)), examples, strict=True):
        np.testing.assert_array_equal(one.input_ids, expected.input_ids)
        np.testing.assert_array_equal(one.loss_weights, expected.loss_weights)
        assert one.num_trained_tokens == expected.num_trained_tokens
    assert again.trained_lengths.tolist() == [one.num_trained_tokens for one in examples]
    assert again.rows.tolist() == list(range(count))


def test_fingerprints_tell_where_examples_end() -> None:
    def example(*ids: int) -> Example:
        return Example(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.float32))

    cut = [[example(1, 2), example(3)], [example(1), example(2, 3)], [example(1, 2, 3)]]
    assert len({fingerprint_of(examples) for examples in cut}) == len(cut)
