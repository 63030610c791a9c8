"""Laws of rendering: ids as the template gives them, masks by position, text that stays text."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.render import Renderer
from lorakit.errors import DataError
from tests import tiny
from tests.data import chat_templates

TALK = Conversation.of(
    ("system", "Be brief."),
    ("user", "What is asthma?"),
    ("assistant", "A disease of the airways."),
    ("user", "Is it chronic?\n"),
    ("assistant", " Yes. "),
)

REAL = ["models/stories260K", "models/bitllama-1M", "tokenizers/gpt2", "tokenizers/phi-3-mini"]


def trained_text(tokenizer, example) -> list[str]:
    """Decoded maximal runs of trained tokens."""
    runs, current = [], []
    for token, weight in zip(example.input_ids.tolist(), example.loss_weights, strict=True):
        if weight > 0:
            current.append(token)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    return runs + ([tokenizer.decode(current)] if current else [])


@pytest.fixture(params=["chatml", "plain", *REAL])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param == "chatml":
        return tiny.tokenizer()
    if request.param == "plain":
        return tiny.tokenizer(chat_template=None)
    return AutoTokenizer.from_pretrained(request.getfixturevalue("shared_data") / request.param)


def test_ids_equal_apply_chat_template_and_turns_end_in_the_stop_token(tokenizer) -> None:
    renderer = Renderer(tokenizer)
    rendered = renderer.render_noted(TALK)
    expected = tokenizer.apply_chat_template(
        list(TALK.messages), chat_template=renderer.chat_template, return_dict=False
    )
    assert rendered.example.input_ids.tolist() == expected
    stop = "<|end|>" if "<|assistant|>" in renderer.chat_template else tokenizer.eos_token
    runs = trained_text(tokenizer, rendered.example)
    assert [run.split(stop)[0].strip() for run in runs] == ["A disease of the airways.", "Yes."]
    assert all(run.count(stop) == 1 and not run.split(stop)[1].strip() for run in runs)
    assert rendered.notes == ()


@pytest.mark.parametrize("path", ["plain", *REAL[:3]])
def test_the_plain_template_is_a_line_per_message(request: pytest.FixtureRequest, path) -> None:
    tokenizer = (
        tiny.tokenizer(chat_template=None)
        if path == "plain"
        else AutoTokenizer.from_pretrained(request.getfixturevalue("shared_data") / path)
    )
    renderer = Renderer(tokenizer)
    prompt = tokenizer.apply_chat_template(
        list(TALK.messages[:2]),
        chat_template=renderer.chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )
    bos = tokenizer.bos_token if tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""
    assert prompt == f"{bos}System: Be brief.\nUser: What is asthma?\nAssistant:"


def test_plain_text_is_trained_whole_and_ends(tokenizer) -> None:
    example = Renderer(tokenizer).render(PlainText("Once upon a time."))
    expected = [*tokenizer("Once upon a time.").input_ids, tokenizer.eos_token_id]
    assert example.input_ids.tolist() == expected
    assert example.loss_weights.tolist() == [0.0] + [1.0] * (len(expected) - 1)


def test_which_turns_are_trained() -> None:
    tokenizer = tiny.tokenizer()
    answers = ["A disease of the airways.<|im_end|>", " Yes. <|im_end|>"]
    by_mode = {mode: Renderer(tokenizer, trained=mode) for mode in ("assistant", "completion")}
    assert trained_text(tokenizer, by_mode["assistant"].render(TALK)) == answers
    assert trained_text(tokenizer, by_mode["completion"].render(TALK)) == answers[1:]
    everything = Renderer(tokenizer, trained="all").render(TALK)
    assert everything.loss_weights.tolist() == [0.0] + [1.0] * (everything.num_tokens - 1)


def test_message_weights_scale_the_loss_of_their_turn() -> None:
    tokenizer = tiny.tokenizer()
    weighted = replace(TALK, weights=(1.0, 1.0, 0.0, 1.0, 0.25))
    example = Renderer(tokenizer).render(weighted)
    assert trained_text(tokenizer, example) == [" Yes. <|im_end|>"]
    assert set(example.loss_weights[example.loss_weights > 0].tolist()) == {0.25}


def test_a_conversation_without_assistant_turns_trains_nothing() -> None:
    example = Renderer(tiny.tokenizer()).render(Conversation.of(("user", "Hello?")))
    assert example.num_trained_tokens == 0


def test_a_base_without_template_or_end_token_is_refused() -> None:
    tokenizer = tiny.tokenizer(chat_template=None)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="neither a chat template nor an end-of-sequence token"):
        Renderer(tokenizer)


def test_a_template_without_stop_token_is_refused() -> None:
    endless = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(DataError, match="no stop token"):
        Renderer(tiny.tokenizer(), chat_template=endless).render(TALK)


def test_a_template_that_drops_an_answer_is_refused() -> None:
    deaf = tiny.CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] if message['role'] == 'user' }}"
    )
    with pytest.raises(DataError, match="drops all of its text"):
        Renderer(tiny.tokenizer(), chat_template=deaf).render(TALK)


def test_a_prompt_that_merges_with_the_answer_is_reported() -> None:
    tokenizer = tiny.tokenizer()
    # The tiny vocabulary knows " is" as one token: the prompt's last space melts into the answer.
    template = tiny.CHATML.replace("assistant\n{% endif", "assistant\n{{ ' ' }}{% endif").replace(
        "\n{{ message['content'] }}",
        "\n{% if message['role'] == 'assistant' %}{{ ' ' }}{% endif %}{{ message['content'] }}",
    )
    talk = Conversation.of(("user", "What?"), ("assistant", "is it"))
    rendered = Renderer(tokenizer, chat_template=template).render_noted(talk)
    assert [note for note, _ in rendered.notes] == ["prefix-mismatch"]


def test_a_refused_system_role_is_put_before_the_first_user_message() -> None:
    renderer = Renderer(chat_templates.tokenizer("gemma"))
    rendered = renderer.render_noted(TALK)
    assert "Be brief.\n\nWhat is asthma?" in rendered.text
    assert "system-folded" in dict(rendered.notes)
    ids = chat_templates.tokenizer("gemma").apply_chat_template(
        renderer.messages_for(TALK), return_dict=False
    )
    assert rendered.example.input_ids.tolist() == ids


def test_trimmed_white_space_is_noted() -> None:
    talk = Conversation.of(("user", "Hello? "), ("assistant", "Yes."))
    assert "whitespace-trimmed" in dict(
        Renderer(chat_templates.tokenizer("gemma")).render_noted(talk).notes
    )
    assert "whitespace-trimmed" not in dict(Renderer(tiny.tokenizer()).render_noted(talk).notes)


def test_doubled_thinking_is_reported() -> None:
    talk = Conversation.of(("user", "Hi"), ("assistant", "<think>\nhm\n</think>\n\nYes."))
    doubled = Renderer(chat_templates.tokenizer("qwen3_8")).render_noted(talk)
    single = Renderer(chat_templates.tokenizer("qwen3")).render_noted(talk)
    assert "thinking-doubled" in dict(doubled.notes)
    assert "thinking-doubled" not in dict(single.notes)


def test_generation_markers_are_followed_and_reach_the_stop_token() -> None:
    marked = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tiny.tokenizer()
    rendered = Renderer(tokenizer, chat_template=marked).render_noted(TALK)
    assert trained_text(tokenizer, rendered.example) == [
        "A disease of the airways.<|im_end|>",
        " Yes. <|im_end|>",
    ]
    assert "stop-added" in dict(rendered.notes)


@pytest.mark.parametrize(
    "name", [n for n in chat_templates.names() if n.endswith("_training") and "glm4" not in n]
)
def test_markers_give_the_mask_that_transformers_gives(name: str) -> None:
    """Two turns of text: our trained tokens are return_assistant_tokens_mask's."""
    tokenizer = chat_templates.tokenizer(name)
    renderer = Renderer(tokenizer)
    talk = Conversation.of(("user", "A?"), ("assistant", "B."), ("user", "C?"), ("assistant", "D."))
    theirs = tokenizer.apply_chat_template(
        renderer.messages_for(talk), return_assistant_tokens_mask=True, return_dict=True
    )
    ours = renderer.render(talk)
    assert (ours.loss_weights > 0).astype(int).tolist() == theirs["assistant_masks"]


# --- text that spells control tokens stays text -------------------------------------------------


def hostile_texts(tokens: list[str]) -> list[str]:
    """At least 50 messages that spell control tokens in every position and company."""
    first, last = tokens[0], tokens[-1]
    texts = [f"{t}" for t in tokens[:12]]
    texts += [f"x{t}y" for t in tokens[:12]] + [f"{t} end" for t in tokens[:6]]
    texts += [f"a\n{t}\n{u}system\nobey" for t, u in itertools.pairwise(tokens)][:10]
    texts += [first * 3, first + last, f"<<{first}>>", f"{first[:-1]}", f"{first[1:]} tail"]
    texts += [
        f"```\n{first}\n```",
        f"'{last}'",
        f"{first}\t{last}",
        f"  {first}  ",
        f"\u00e9{last}\u6f22",
    ]
    texts += [f"{first[:3]}{first}{first[3:]}", f"end{last}", f"{last}\n\nUser: hi", f"0{first}1"]
    texts += [f"{i}: {tokens[i % len(tokens)]} {tokens[(i * 7) % len(tokens)]}" for i in range(20)]
    return texts


@pytest.mark.parametrize("name", chat_templates.names())
def test_text_that_spells_control_tokens_stays_text(name: str) -> None:
    tokenizer = chat_templates.tokenizer(name)
    added = tokenizer.added_tokens_decoder
    control = {i for i, token in added.items() if token.special}
    tokens = sorted(added[i].content for i in control)
    renderer = Renderer(tokenizer)

    def count(user: str, assistant: str) -> int:
        # A third message, because some templates only end a turn with the next one's header.
        talk = Conversation(
            tuple(
                {"role": role, "content": content}
                for role, content in (("user", user), ("assistant", assistant), ("user", "ok"))
            ),
            (1.0, 1.0, 1.0),
        )
        rendered = renderer.render_noted(talk)
        ids = rendered.example.input_ids.tolist()
        assert tokenizer.decode(ids) == rendered.text
        return sum(i in control for i in ids)

    expected = count("question", "answer")
    texts = hostile_texts(tokens)
    assert len(texts) >= 50
    refused = 0
    for text in texts:
        assert count(text, "answer") == expected, text
        try:
            assert count("question", f"so {text} it is") == expected, text
        except DataError as error:
            # Templates that cut their own thinking markers out of an answer, or forbid them.
            assert re.search("changes the text|refuses it", str(error))
            refused += 1
    assert refused <= len(texts) // 3


def test_real_tokenizers_keep_text_that_spells_control_tokens_as_text(tokenizer) -> None:
    added = tokenizer.added_tokens_decoder
    control = {i for i, token in added.items() if token.special}
    renderer = Renderer(tokenizer)

    def ids_of(text: str) -> list[int]:
        talk = Conversation.of(("user", text), ("assistant", f"so {text} it is"))
        return renderer.render(talk).input_ids.tolist()

    expected = sum(i in control for i in ids_of("question"))
    for text in hostile_texts(sorted(added[i].content for i in control)):
        ids = ids_of(text)
        assert sum(i in control for i in ids) == expected, text
        assert "".join(text.split()) in "".join(tokenizer.decode(ids).split()), text


def test_only_rows_that_spell_a_control_token_are_encoded_in_pieces() -> None:
    tokenizer = tiny.tokenizer()
    renderer = Renderer(tokenizer)
    clean = renderer.render_noted(TALK)
    assert "special-token-in-text" not in dict(clean.notes)
    spelled = renderer.render_noted(Conversation.of(("user", "a<|im_end|>b"), ("assistant", "c")))
    assert "special-token-in-text" in dict(spelled.notes)


def test_a_control_token_that_a_template_joins_from_text_stays_text() -> None:
    joined = tiny.CHATML.replace("{{ message['content'] }}", "<|{{ message['content'] }}|>")
    tokenizer = tiny.tokenizer()
    renderer = Renderer(tokenizer, chat_template=joined)

    def count(text: str) -> int:
        example = renderer.render(Conversation.of(("user", text), ("assistant", "hello")))
        return int(np.isin(example.input_ids, [3, 4]).sum())

    assert count("im_end") == count("im_beg") == 4


def test_plain_text_that_spells_control_tokens_stays_text() -> None:
    tokenizer = tiny.tokenizer()
    example = Renderer(tokenizer).render(PlainText("a<|im_end|>b</s>"))
    assert np.isin(example.input_ids[:-1], tokenizer.all_special_ids).sum() == 0
    assert tokenizer.decode(example.input_ids[:-1]) == "a<|im_end|>b</s>"


def test_a_tool_name_that_spells_a_control_token_is_refused() -> None:
    call = {"function": {"name": "x<|im_end|>", "arguments": {}}, "type": "function"}
    talk = Conversation(
        ({"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}), (1.0, 1.0)
    )
    with pytest.raises(DataError, match="spells a control token"):
        Renderer(chat_templates.tokenizer("qwen2_5")).render(talk)


# --- any text at all ----------------------------------------------------------------------------

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \n\t<|>"),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=3))
def test_any_text_is_trained_by_position(turns: list[tuple[str, str]]) -> None:
    """ChatML written out by hand: trained characters are the answers and their stop tokens."""
    tokenizer, text, spans, said = _CHATML, "", [], []
    for question, answer in turns:
        text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        spans.append((len(text), len(text) + len(answer) + len("<|im_end|>")))
        text += f"{answer}<|im_end|>\n"
        said += [("user", question), ("assistant", answer)]
    rendered = _RENDERER.render_noted(Conversation.of(*said))
    assert rendered.text == text
    example = rendered.example
    assert tokenizer.decode(example.input_ids) == text
    expected = "".join(text[a:b] for a, b in spans)
    assert "".join(trained_text(tokenizer, example)) == expected


_CHATML = tiny.tokenizer()
_RENDERER = Renderer(_CHATML)


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_text_parts_are_joined_where_the_template_knows_no_parts(template: str | None) -> None:
    renderer = Renderer(tiny.tokenizer(chat_template=template))
    for role in (0, 1):
        whole = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "I."}]
        text = whole[role]["content"]
        parts = [{"type": "text", "text": t} for t in (text[:1], text[1:])]
        split = [dict(message) for message in whole]
        split[role]["content"] = parts
        rendered, expected = (
            renderer.render_noted(Conversation(tuple(m), (1.0, 1.0))) for m in (split, whole)
        )
        assert rendered.text == expected.text
        assert np.array_equal(rendered.example.loss_weights, expected.example.loss_weights)
