"""Stop tokens are known by position: the control token that ends each trained turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.data.prepare import DataRules, Prepared, prepare_examples
from lorakit.data.render import Renderer
from lorakit.errors import DataError
from tests import tiny
from tests.data import chat_templates

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def prepare(template: str | None = tiny.CHATML, cache: Path | None = None, **rules) -> Prepared:
    turns = [("user", "What is asthma?"), ("assistant", "A disease."), ("user", "Cure?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = [{"messages": [*messages, {"role": "assistant", "content": "No.\nNone."}]}] * 3
    tokenizer = tiny.tokenizer(chat_template=template)
    return prepare_examples(rows, tokenizer, DataRules(**rules), cache_dir=cache)


@pytest.mark.parametrize("trained", ["assistant", "completion", "all"])
@pytest.mark.parametrize("template", [tiny.CHATML, MARKED])
def test_a_chat_stops_with_its_end_of_turn_token(
    trained: str, template: str, tmp_path: Path
) -> None:
    stop = tiny.tokenizer().convert_tokens_to_ids("<|im_end|>")
    for cache in (None, tmp_path, tmp_path):  # in memory, written, read back
        assert prepare(template, cache, trained=trained).stop_ids == (stop,)


def test_plain_text_stops_with_the_end_of_sequence() -> None:
    tokenizer = tiny.tokenizer()
    prepared = prepare_examples([{"text": "Once."}], tokenizer, DataRules())
    assert prepared.stop_ids == (tokenizer.eos_token_id,)


def test_what_is_not_trained_is_no_stop() -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "y", "weight": 0},
            ]
        },
        {"text": "Once."},
    ]
    tokenizer = tiny.tokenizer()
    mixed = [rows[:1], rows[1:]]
    prepared = prepare_examples(mixed, tokenizer, DataRules(max_dropped=0.5))
    assert prepared.stop_ids == (tokenizer.eos_token_id,)


@pytest.mark.parametrize("name", chat_templates.names())
def test_stops_of_real_templates_are_single_control_tokens(name: str) -> None:
    tokenizer = chat_templates.tokenizer(name)
    renderer = Renderer(tokenizer)
    control = set(renderer.template.control_tokens())
    seen = 0
    for case in chat_templates.CASES:
        try:
            rendered = renderer.render_noted(chat_templates.conversation(case))
        except DataError:
            continue  # which cases a template refuses is test_templates' business
        texts = {tokenizer.convert_ids_to_tokens(stop) for stop in rendered.stop_ids}
        trained = set(rendered.example.input_ids[rendered.example.loss_weights > 0].tolist())
        assert texts <= control and trained >= set(rendered.stop_ids), (case, texts)
        assert texts or "stop-differs" in dict(rendered.notes), case
        seen += len(texts)
    assert seen


def test_the_end_of_thinking_is_no_stop() -> None:
    tokenizer = chat_templates.tokenizer("gptoss")
    rendered = Renderer(tokenizer).render_noted(chat_templates.conversation("thinking, multi"))
    assert tokenizer.convert_ids_to_tokens(list(rendered.stop_ids)) == ["<|return|>"]
