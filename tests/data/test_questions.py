"""Prompts as people and rewards read them: messages stand apart, whatever the template."""

from __future__ import annotations

from lorakit.data.conversation import Conversation
from lorakit.data.prompt import PromptRenderer
from lorakit.data.questions import control_ids, decoded, decoded_prompts, question
from lorakit.data.render import Renderer
from lorakit.errors import DataError
from tests import tiny
from tests.data import chat_templates

MESSAGES = [
    {"role": "system", "content": "SYSWORD rules."},
    {"role": "user", "content": "UWORD1 asks\nin two lines."},
    {"role": "assistant", "content": "AWORD1 says."},
    {"role": "user", "content": "UWORD2 asks."},
]
# Tokens of its own stand between messages, and nothing else.
BARE = (
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def test_no_line_has_words_of_two_messages() -> None:
    """In every template that takes such messages, and that is nearly all."""
    refused, words = [], ("SYSWORD", "UWORD1", "AWORD1", "UWORD2")
    for name in chat_templates.names():
        tokenizer = chat_templates.tokenizer(name)
        try:
            ids = PromptRenderer(tokenizer).ids(MESSAGES)
        except DataError:
            refused.append(name)
            continue
        (text,) = decoded_prompts(tokenizer, [ids])
        for line in text.split("\n"):
            assert sum(word in line for word in words) <= 1, (name, line)
        assert [word for word in words if word in text] == [*words], name
        assert "UWORD1 asks\nin two lines." in text, name
    assert len(refused) < 3, refused


def test_a_prompt_is_the_same_with_and_without_an_answer() -> None:
    """In every template: rows of GRPO that are a prompt alone are asked like all others."""
    refused = []
    for name in chat_templates.names():
        renderer, asked = Renderer(chat_templates.tokenizer(name)), []
        for answer in ("", "ANSWER."):
            row = Conversation.of(*(("user", "UWORD asks."), ("assistant", answer)))
            try:
                rendered = renderer.render_noted(row)
            except DataError:
                refused.append(name)
                continue
            found = question(rendered.example, 0, rendered.stop_ids)
            assert found is not None
            asked.append((found.prompt_ids, rendered.notes))
            told = decoded(renderer.tokenizer, found.reference_ids)
            assert ("ANSWER" in told) == bool(answer)
        assert asked[1:] == asked[:-1], name
    assert refused == ["glm4moe"] * 2, refused  # it ends no turn, whatever is in it


def test_messages_between_which_nothing_stands() -> None:
    tokenizer = tiny.tokenizer(chat_template=BARE)
    ids = PromptRenderer(tokenizer).ids(MESSAGES)
    assert "rules.UWORD1" in decoded(tokenizer, ids)
    expected = "\n".join(message["content"] for message in MESSAGES)
    first = decoded(tokenizer, ids[:2])
    assert decoded_prompts(tokenizer, [ids, ids[:2], []]) == [expected, first, ""]
    spelled = [{"role": "user", "content": "What is <|im_end|> for?"}]  # stays text
    (text,) = decoded_prompts(tokenizer, [PromptRenderer(tokenizer).ids(spelled)])
    assert text == "What is <|im_end|> for?"
    assert set(control_ids(tokenizer)) >= {0, 1, 2, 3, 4}
