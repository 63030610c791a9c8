"""The prompt of a chat is what training saw before an answer, for every template there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from lorakit.data.conversation import Conversation
from lorakit.data.prompt import PromptRenderer
from lorakit.data.render import Renderer
from lorakit.errors import DataError
from tests import tiny
from tests.data import chat_templates

FIRST = [{"role": "user", "content": "What is asthma?"}]
SECOND = [
    *FIRST,
    {"role": "assistant", "content": "A disease of the airways."},
    {"role": "user", "content": "And a fever?"},
]


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def generation_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]
) -> list[int]:
    renderer = Renderer(tokenizer)
    shaped = renderer.messages_for(Conversation(tuple(messages), (1.0,) * len(messages)))
    shown = tokenizer.apply_chat_template(
        shaped,
        chat_template=renderer.chat_template,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    return list(shown["input_ids"])


def trained_prefix(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> list[int]:
    """What stands before the last answer in a training example."""
    said = (*messages, say("assistant", "Rest and fluids."))
    example = Renderer(tokenizer, trained="completion").render(
        Conversation(said, (1.0,) * len(said))
    )
    return example.input_ids[: int(np.flatnonzero(example.loss_weights)[0])].tolist()


def is_trained_from_the_prompt_on(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]
) -> bool:
    """False where training refuses the template, or says that what it trains starts elsewhere."""
    renderer = Renderer(tokenizer, trained="completion")
    said = (*messages, say("assistant", "Rest and fluids."))
    try:
        notes = renderer.render_noted(Conversation(said, (1.0,) * len(said))).notes
    except DataError:
        return False
    return not {"prefix-mismatch", "marker-starts-elsewhere"} & dict(notes).keys()


@pytest.mark.parametrize("messages", [FIRST, SECOND], ids=["first", "second"])
@pytest.mark.parametrize("name", chat_templates.names())
def test_prompts_are_what_training_saw(name: str, messages: list[dict[str, Any]]) -> None:
    tokenizer = chat_templates.tokenizer(name)
    ids = PromptRenderer(tokenizer).ids(messages)
    assert ids == generation_prompt(tokenizer, messages)
    if is_trained_from_the_prompt_on(tokenizer, messages):
        assert ids == trained_prefix(tokenizer, messages)


def test_most_templates_are_trained_from_the_prompt_on() -> None:
    found = [
        is_trained_from_the_prompt_on(chat_templates.tokenizer(name), FIRST)
        for name in chat_templates.names()
    ]
    assert sum(found) > 0.7 * len(found)


@pytest.mark.parametrize("chat_template", [tiny.CHATML, None], ids=["chatml", "plain"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_system_message_and_an_empty_or_odd_answer_are_rendered(
    chat_template: str | None, system: str | None
) -> None:
    tokenizer = tiny.tokenizer(chat_template=chat_template)
    opening = [] if system is None else [say("system", system)]
    for answer in ("", "  ", " Yes. \n", "line\n\nline", "\u00e9\u6f22\U0001f600", "answer"):
        messages = [*opening, say("user", "Is it?"), say("assistant", answer), say("user", "So?")]
        ids = PromptRenderer(tokenizer).ids(messages)
        assert ids == generation_prompt(tokenizer, messages), repr(answer)


def test_text_that_spells_a_special_token_stays_text() -> None:
    tokenizer = tiny.tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = PromptRenderer(tokenizer).ids([say("user", "What?")])
    spelled = PromptRenderer(tokenizer).ids([say("user", "What?<|im_end|>")])
    assert spelled.count(end) == plain.count(end) == 1
    assert tokenizer.decode(spelled).count("<|im_end|>") == 2


@pytest.mark.parametrize("chat_template", [tiny.CHATML, None], ids=["chatml", "plain"])
@pytest.mark.parametrize(
    "text",
    ["<|im_end|>", "a<|im_start|>user\n<|im_end|> b", "mq0z <|im_end|> mq1z<s>", "<|im_en"],
)
def test_spelled_tokens_are_what_training_saw(chat_template: str | None, text: str) -> None:
    tokenizer = tiny.tokenizer(chat_template=chat_template)
    messages = [say("user", text), say("assistant", f"{text}!"), say("user", "?" + text)]
    assert PromptRenderer(tokenizer).ids(messages) == trained_prefix(tokenizer, messages)


def test_a_template_that_refuses_says_so() -> None:
    refusing = "{{ raise_exception('no') if messages[0]['content'] == 'X' }}" + tiny.CHATML
    renderer = PromptRenderer(tiny.tokenizer(chat_template=refusing))
    assert renderer.ids(FIRST)
    with pytest.raises(DataError, match="no"):
        renderer.ids([say("user", "X")])
