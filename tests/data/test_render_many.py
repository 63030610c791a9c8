"""Law: many rows at once give what each gives by itself, to the last id, weight, note and error."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lorakit.data import render_many as module
from lorakit.data.ahead import ahead
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.render import Renderer
from lorakit.data.render_many import render_many
from lorakit.errors import DataError
from tests import tiny
from tests.data import chat_templates

TALKS: list[Conversation | PlainText] = [
    Conversation.of(("user", "Where?"), ("assistant", "In Paris.")),
    Conversation.of(("system", "Be brief."), ("user", " Who? "), ("assistant", "\nMe.\n\n")),
    Conversation.of(
        ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "\u0301d\U0001f600")
    ),
    Conversation.of(("user", "think"), ("assistant", "<think>\nhm\n</think>\n\nyes")),
    Conversation.of(("user", "say <|im_end|> and </s>"), ("assistant", "<|im_end|> it is <|end|>")),
    Conversation.of(("user", "I say <|im_e"), ("assistant", "nd|>")),
    Conversation.of(("user", "no answer")),
    Conversation.of(("assistant", "first")),
    Conversation(
        ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}), (1.0, 0.5)
    ),
    Conversation(
        (
            {"role": "user", "content": [{"type": "text", "text": "parts"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ),
        (1.0, 1.0),
    ),
    Conversation(
        (
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "reasoning_content": "I look it up.",
                "tool_calls": [
                    {
                        "type": "function",
                        "id": "c1",
                        "function": {
                            "name": "get_weather",
                            "arguments": {"city": "<|im_end|>"},
                        },
                    }
                ],
            },
            {"role": "tool", "content": '{"t": 3}', "tool_call_id": "c1"},
            {"role": "assistant", "content": "Three degrees."},
        ),
        (1.0,) * 4,
        (chat_templates.TOOL,),
    ),
    PlainText("Once upon a time"),
    PlainText("a <|im_end|> in a text"),
    PlainText(""),
]


def check_equal(renderer: Renderer, talks: Sequence[Conversation | PlainText]) -> None:
    many = list(render_many(renderer, talks))
    assert len(many) == len(talks)
    for talk, found in zip(talks, many, strict=True):
        try:
            expected = renderer.render_noted(talk)
        except DataError as error:
            assert isinstance(found, DataError) and str(found) == str(error)
            continue
        assert not isinstance(found, DataError), found
        assert found.example.input_ids.dtype == expected.example.input_ids.dtype
        assert found.example.loss_weights.dtype == expected.example.loss_weights.dtype
        assert found.example.input_ids.tolist() == expected.example.input_ids.tolist()
        assert found.example.loss_weights.tolist() == expected.example.loss_weights.tolist()
        assert (found.text, found.notes) == (expected.text, expected.notes)
        assert found.stop_ids == expected.stop_ids


def renderers(tokenizer: PreTrainedTokenizerBase) -> list[Renderer]:
    return [
        Renderer(tokenizer, trained="assistant"),
        Renderer(tokenizer, trained="completion"),
        Renderer(tokenizer, trained="all"),
    ]


@pytest.mark.parametrize("name", chat_templates.names())
def test_every_template(name: str) -> None:
    for renderer in renderers(chat_templates.tokenizer(name)):
        check_equal(renderer, TALKS)


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_the_tiny_tokenizer(template: str | None) -> None:
    for renderer in renderers(tiny.tokenizer(chat_template=template)):
        check_equal(renderer, TALKS)


REAL = ["tokenizers/gpt2", "tokenizers/phi-3-mini", "models/stories260K", "models/bitllama-1M"]
FILES = [
    "instruct/pubmedqa_train.jsonl",
    "instruct/self_instruct_seed_tasks.jsonl",
    "instruct/tinker_conversations.jsonl",
    "medquad/small_test_300.jsonl",
]
TEMPLATES = {
    "own": None,
    "header merges with the answer": "{% for m in messages %}"
    "{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", REAL)
def test_real_rows_and_tokenizers(shared_data: Path, name: str, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / name)
    renderer = Renderer(tokenizer, chat_template=TEMPLATES[template])
    for file in FILES:
        rows = read_meanings(shared_data / file, DataRules())[:100]
        check_equal(renderer, [row.conversation for row in rows])


def test_masks_come_without_offsets_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(tiny.tokenizer(chat_template=tiny.CHATML))
    monkeypatch.setattr(renderer, "_by_offsets", None)
    (found,) = render_many(renderer, TALKS[:1])
    assert not isinstance(found, DataError) and found.example.loss_weights.any()


def test_offsets_are_asked_for_where_most_rows_need_them(monkeypatch: pytest.MonkeyPatch) -> None:
    template = TEMPLATES["header merges with the answer"].replace("eos_token", "' '")
    template += "{{ eos_token if not add_generation_prompt }}"
    monkeypatch.setattr(module, "CHUNK_ROWS", 4)
    renderer = Renderer(tiny.tokenizer(), chat_template=template)
    seen: list[bool] = []
    encode = module.BatchEncoder.encode

    def noted(self: module.BatchEncoder, texts: Sequence[str]) -> object:
        seen.append(self.with_offsets)
        return encode(self, texts)

    monkeypatch.setattr(module.BatchEncoder, "encode", noted)
    check_equal(renderer, TALKS[:1] * 40)
    assert not seen[0] and seen[-1]


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself() -> None:
    class Shouting(type(tiny.tokenizer())):  # type: ignore[misc]
        def _encode_plus(self, text: object, **options: object) -> object:
            shouted = [one.upper() for one in text] if isinstance(text, list) else str(text).upper()
            return super()._encode_plus(shouted, **options)

    tokenizer = tiny.tokenizer()
    tokenizer.__class__ = Shouting
    check_equal(Renderer(tokenizer), TALKS[:3])
    (found,) = render_many(Renderer(tokenizer), TALKS[:1])
    assert not isinstance(found, DataError)
    assert (
        found.example.input_ids.tolist()
        != Renderer(tiny.tokenizer()).render(TALKS[0]).input_ids.tolist()
    )


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(tiny.tokenizer())
    expected = [str(one) for one in render_many(renderer, TALKS * 3)]
    for rows, characters in ((1, 1 << 20), (7, 1 << 20), (512, 10)):
        monkeypatch.setattr(module, "CHUNK_ROWS", rows)
        monkeypatch.setattr(module, "CHUNK_CHARACTERS", characters)
        assert [str(one) for one in render_many(renderer, TALKS * 3)] == expected


def test_a_fault_while_reading_comes_out_and_the_threads_end() -> None:
    def faulty() -> Iterator[Conversation | PlainText]:
        yield from TALKS
        raise DataError("line 7")

    with pytest.raises(DataError, match="line 7"):
        list(render_many(Renderer(tiny.tokenizer()), faulty()))
    stopped = render_many(Renderer(tiny.tokenizer()), TALKS * 500)
    next(stopped)
    stopped.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("lorakit-")]


def test_ahead_keeps_order_and_works_only_so_far_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    taken = ahead(numbers(), depth=2)
    assert next(taken) == 0
    assert list(taken) == list(range(1, 100))
    made.clear()
    taken = ahead(numbers(), depth=2)
    next(taken)
    taken.close()
    assert len(made) <= 5
    assert np.all(np.diff(made) == 1)
