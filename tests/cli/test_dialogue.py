"""A conversation: what the model is given, what is remembered, what is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from lorakit.adapters.attached import adapter_disabled
from lorakit.cli.chat import open_dialogues
from lorakit.cli.chat.dialogue import Dialogue, Turn
from lorakit.data.prompt import PromptRenderer
from lorakit.errors import InputError
from lorakit.generate import SamplingSettings, generate
from lorakit.ship.serving import ServedRun

GREEDY = SamplingSettings(max_new_tokens=8, temperature=0.0)


def tuned(served: ServedRun, settings: SamplingSettings = GREEDY, **more: Any) -> Dialogue:
    return Dialogue(served.model, served.tokenizer, settings, **more)


def test_an_answer_is_the_sampler_s_for_the_training_s_prompt(served: ServedRun) -> None:
    dialogue = tuned(served, system="Be brief.")
    pieces: list[str] = []
    first = dialogue.ask("What helps?", pieces.append)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What helps?"},
    ]
    for _ in range(2):
        prompt = PromptRenderer(served.tokenizer).ids(messages)
        (expected,) = generate(served.model, served.tokenizer, [prompt], GREEDY)
        assert (first.text, first.num_tokens) == (expected.text, len(expected.token_ids))
        assert "".join(pieces) == first.text != ""
        assert first.is_cut == (expected.finish_reason == "length")
        messages += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "And then?"},
        ]
        assert dialogue.messages() == messages[:-1]
        pieces.clear()
        first = dialogue.ask("And then?", pieces.append)


def test_the_base_answers_without_the_adapter_and_apart(served: ServedRun) -> None:
    base, own = open_dialogues(served, GREEDY, base=True)
    assert (base.name, own.name) == ("base", "tuned")
    assert base.system == own.system == "Be brief."  # that of the training
    answers = [dialogue.ask("What helps?").text for dialogue in (base, own)]
    assert answers[0] != answers[1]
    with adapter_disabled(served.model):
        assert tuned(served, system="Be brief.").ask("What helps?").text == answers[0]
    assert [base.turns[0].answer, own.turns[0].answer] == answers
    (alone,) = open_dialogues(served, GREEDY, base=False, system="")
    assert alone.system is None and alone.name == "tuned"


def test_seeds_repeat_and_count_on(served: ServedRun) -> None:
    def said(seed: int) -> list[str]:
        dialogue = tuned(served, SamplingSettings(max_new_tokens=8, temperature=3.0, seed=seed))
        answers = []
        for _ in range(2):
            answers.append(dialogue.ask("What helps?").text)
            dialogue.undo()
        return answers

    assert said(1) == said(1)
    assert said(1)[1] != said(1)[0]  # asked again, drawn again
    assert said(2)[0] == said(1)[1]


def test_undo_and_reset(served: ServedRun) -> None:
    dialogue = tuned(served)
    first = dialogue.ask("What helps?").text
    dialogue.ask("And then?")
    taken = dialogue.undo()
    assert taken is not None and taken.question == "And then?"
    assert dialogue.turns == [Turn("What helps?", first)]
    dialogue.reset("Be kind.")
    assert dialogue.messages() == [{"role": "system", "content": "Be kind."}]
    assert dialogue.undo() is None
    dialogue.reset(None)
    assert dialogue.messages() == []


def test_the_oldest_turns_are_dropped_when_the_context_is_full(served: ServedRun) -> None:
    settings = SamplingSettings(max_new_tokens=60, temperature=0.0)
    dialogue = tuned(served, settings, system="Be brief.")
    forgotten = [dialogue.ask(f"Question {n}: what helps?").num_forgotten for n in range(6)]
    assert forgotten[0] == 0 and sum(forgotten) > 0
    assert len(dialogue.turns) == 6 - sum(forgotten)
    assert dialogue.turns[-1].question.startswith("Question 5")
    assert dialogue.messages()[0]["role"] == "system"
    prompt = PromptRenderer(served.tokenizer).ids(dialogue.messages()[:-1])
    assert len(prompt) + 60 <= 256  # the tiny model's context


def test_a_question_that_cannot_be_asked_changes_nothing(served: ServedRun) -> None:
    dialogue = tuned(served)
    dialogue.ask("What helps?")
    before = list(dialogue.turns)
    with pytest.raises(InputError, match="no room for an answer"):
        dialogue.ask("rest " * 300)
    with pytest.raises(InputError, match="half a surrogate pair"):
        dialogue.ask("\ud800")
    assert dialogue.turns == before


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(served: ServedRun) -> None:
    dialogue = tuned(served, SamplingSettings(max_new_tokens=40, temperature=0.0))
    whole = tuned(served, SamplingSettings(max_new_tokens=40, temperature=0.0)).ask("What helps?")
    shown: list[str] = []

    def stop(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 3:
            raise KeyboardInterrupt

    answer = dialogue.ask("What helps?", stop)
    assert answer.is_stopped and not answer.is_cut
    assert answer.text == "".join(shown) == whole.text[: len(answer.text)] != whole.text
    assert dialogue.turns == [Turn("What helps?", answer.text)]
    assert dialogue.ask("And then?").text  # the model goes on as if nothing had happened


def test_an_answer_may_not_be_longer_than_the_context(served: ServedRun) -> None:
    dialogue = tuned(served, SamplingSettings(max_new_tokens=100_000, temperature=0.0))
    answer = dialogue.ask("What helps?")
    assert answer.num_tokens < 256
