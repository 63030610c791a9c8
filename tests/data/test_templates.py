"""Every chat template that ships with trl: ids, mask and stop token right, or a refusal that says
why.

The oracle knows nothing of how spans are found: every message holds a word of its own, and the stop
tokens of each family are written down by hand. `pytest -s` prints the table.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from lorakit.data.render import Renderer
from lorakit.errors import DataError
from tests.data import chat_templates

# family (longest matching prefix wins) -> stop tokens after an answer, and after a tool call
STOPS = {
    "cohere": ({"<|END_OF_TURN_TOKEN|>"}, set()),
    "deepseek": (
        {"<\uff5cend\u2581of\u2581sentence\uff5c>"},
        {"<\uff5cend\u2581of\u2581sentence\uff5c>"},
    ),
    "diffusion_gemma": ({"<turn|>"}, {"<|tool_response>"}),
    "gemma": ({"<end_of_turn>"}, set()),
    "gemma4": ({"<turn|>"}, {"<|tool_response>"}),
    "gemma4_v2": ({"<turn|>"}, {"<turn|>"}),
    "glm4moe": ({"<|user|>"}, {"<|observation|>"}),
    "gptoss": ({"<|return|>", "<|end|>"}, {"<|call|>"}),
    "idefics3": ({"<end_of_utterance>"}, set()),
    "lfm2": ({"<|im_end|>"}, {"<|im_end|>"}),
    "llama3": ({"<|eot_id|>"}, {"<|eot_id|>"}),
    "llava_next": ({"</s>"}, set()),
    "muse_glimmer": ({"<|eot|>"}, {"<|eot|>"}),
    "nemotron": ({"<|im_end|>"}, {"<|im_end|>"}),
    "phi3": ({"<|end|>"}, set()),
    "qwen": ({"<|im_end|>"}, {"<|im_end|>"}),
    "smolvlm": ({"<end_of_utterance>"}, set()),
}

# Templates that write no stop token after the last answer: every case is refused, and says so.
NO_STOP = {"glm4moe"}

# They read tool calls in some turns only, and drop them in others.
DROP_CALLS = {"deepseek_r1_distill", "deepseek_r1_distill_training"}

TRAINED_WORD = re.compile(r"[ACR]WORD\d")
UNTRAINED_WORD = re.compile(r"(?:[UT]WORD\d|SYSWORD|DESCWORD)")


def stops_of(name: str) -> tuple[set[str], set[str]]:
    prefix = max((p for p in STOPS if name.startswith(p)), key=len, default=None)
    assert prefix is not None, f"trl ships a new family {name}: write its stop tokens into STOPS"
    return STOPS[prefix]


def trained_runs(ids: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Maximal runs of trained ids."""
    trained = np.concatenate([[False], weights > 0, [False]])
    edges = np.flatnonzero(trained[1:] != trained[:-1])
    return [ids[a:b] for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize("name", chat_templates.names())
def test_every_shipped_template_is_masked_by_position_or_refused(name: str) -> None:
    tokenizer = chat_templates.tokenizer(name)
    renderer = Renderer(tokenizer)
    refused = {}
    for case in chat_templates.CASES:
        try:
            outcome = check_case(tokenizer, renderer, name, case)
        except DataError as error:
            refused[case] = str(error)
            outcome = f"refused: {error}"
        print(f"{name:32} {case:22} {outcome[:120]}")
    text_cases = [case for case in refused if not case.startswith("tools")]
    if name in NO_STOP:
        assert set(refused) == set(chat_templates.CASES) - {"ends with user"}
        assert all("no stop token" in reason for reason in refused.values())
    else:
        assert not text_cases, refused
        speaks_tools = "tool_calls" in chat_templates.source(name) and name not in DROP_CALLS
        assert bool(refused) == (not speaks_tools), refused


def check_case(tokenizer, renderer: Renderer, name: str, case: str) -> str:
    conversation = chat_templates.conversation(case)
    rendered = renderer.render_noted(conversation)
    example, noted = rendered.example, {note for note, _ in rendered.notes}
    messages, tools = renderer.messages_for(conversation), list(conversation.tools) or None
    ids = tokenizer.apply_chat_template(messages, tools=tools, return_dict=False)
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert example.input_ids.tolist() == ids

    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    trained = np.zeros(len(text), dtype=bool)
    for (start, end), weight in zip(offsets, example.loss_weights, strict=True):
        trained[start:end] |= weight > 0
    for match in TRAINED_WORD.finditer(text):
        assert trained[slice(*match.span())].all(), f"{match.group()} is not trained"
    for match in UNTRAINED_WORD.finditer(text):
        assert not trained[slice(*match.span())].any(), f"{match.group()} is trained"
    check_stops(tokenizer, example, conversation, name)
    check_losses(text, conversation, noted)
    check_prompt(tokenizer, renderer, conversation, example, noted)
    return f"right {sorted(noted) or ''}"


def check_stops(tokenizer, example, conversation, name: str) -> None:
    """One trained run per assistant turn, each with its turn's words, ending in a stop token."""
    after_answer, after_call = stops_of(name)
    turns = [m for m in conversation.messages if m["role"] == "assistant"]
    runs = trained_runs(example.input_ids, example.loss_weights)
    assert len(runs) == len(turns)
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    for run, message in zip(runs, turns, strict=True):
        calls = "tool_calls" in message
        word = "CWORD1" if calls else re.search(r"AWORD\d", message["content"]).group()
        tokens = [tokenizer.decode([token]) for token in run]
        text = tokenizer.decode(run)
        assert word in text
        last_word = text.rindex(word)
        found = [t for t in tokens if t in special and text.rindex(t) > last_word]
        expected = after_call if calls else after_answer
        assert found and set(found) & expected, f"{text!r} does not end in one of {expected}"
        rest = text[text.rindex(next(t for t in reversed(found) if t in expected)) :]
        assert TRAINED_WORD.search(rest) is None
        leftover = re.sub("|".join(map(re.escape, special)), "", rest)
        assert not leftover.strip(), f"{leftover!r} is trained after the stop token"


def check_losses(text: str, conversation, noted: set[str]) -> None:
    """A word that the template leaves out is reported."""
    said = repr(conversation.messages)
    missing = {w for w in re.findall(r"[AUTCR]WORD\d|SYSWORD", said) if w not in text}
    if any(word.startswith("R") for word in missing):
        assert "thinking-dropped" in noted
    if any(not word.startswith("R") for word in missing):
        assert "content-dropped" in noted


def check_prompt(tokenizer, renderer, conversation, example, noted: set[str]) -> None:
    """The ids before the last turn are those of the generation prompt, or a finding says
    otherwise."""
    last = max(i for i, m in enumerate(conversation.messages) if m["role"] == "assistant")
    before = renderer.messages_for(conversation)
    last -= len(conversation.messages) - len(before)
    prompt = tokenizer.apply_chat_template(
        before[:last],
        tools=list(conversation.tools) or None,
        add_generation_prompt=True,
        return_dict=False,
    )
    run = trained_runs(example.input_ids, example.loss_weights)[-1]
    text_ids = example.input_ids.tolist()
    starts = [i for i in range(len(text_ids)) if text_ids[i : i + len(run)] == run.tolist()]
    agrees = text_ids[: starts[-1]] == prompt
    if not agrees:
        assert noted & {"prefix-mismatch", "marker-starts-elsewhere"}
