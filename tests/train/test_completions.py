"""Which completions of a generation are kept, and what a terminal is shown of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorakit.data.questions import Question
from lorakit.train.advantages import advantages
from lorakit.train.completions import NOT_SCORED, in_words, not_scored, samples
from lorakit.train.rollouts import Rollouts
from tests.train.grpo_runs import TOKENIZER

TEXTS = ["four", "three", "two", "one", "other", "question"]


def rollouts(
    rewards: list[float], texts: list[str] | None = None, *, is_second: bool = False
) -> Rollouts:
    """Two questions, one with four completions of these rewards; of the other all have 9."""
    whole = (texts or TEXTS[:4]) + ["x"] * 4
    whole = whole[4:] + whole[:4] if is_second else whole
    ids = [TOKENIZER(text)["input_ids"] for text in whole]
    given = [*[9.0] * 4, *rewards] if is_second else [*rewards, *[9.0] * 4]
    values = torch.tensor(given, dtype=torch.float64)[:, None]
    found = Rollouts(
        0,
        [Question(0, TOKENIZER("Asked?")["input_ids"], TOKENIZER("4")["input_ids"])] * 2,
        whole,
        lengths=torch.tensor([len(one) for one in ids]),
        token_ids=torch.tensor([token for one in ids for token in one]).int(),
        truncated=torch.zeros(8, dtype=torch.bool),
        rewards=values,
        scored=torch.ones((8, 1), dtype=torch.bool),
        rollout_logprobs=torch.zeros(sum(map(len, ids))),
    )
    found.weighed = advantages(values.numpy(), np.repeat([0, 1], 4))
    return found


@pytest.mark.parametrize(
    ("rewards", "wanted"),
    [
        ([0.2, 1.0, 0.1, 0.5], [("best", "three"), ("typical", "four"), ("worst", "two")]),
        ([1.0, 1.0, 1.0, 1.0], [("best", "four"), ("typical", "two"), ("worst", "one")]),
        ([np.nan, 1.0, 0.5, 0.7], [("best", "three"), ("typical", "two"), ("worst", "four")]),
    ],
)
@pytest.mark.parametrize("is_second", [False, True])
def test_the_best_a_typical_and_the_worst_of_the_first_question_that_says_something(
    rewards: list[float], wanted: list[tuple[str, str]], is_second: bool
) -> None:
    found = samples(TOKENIZER, rollouts(rewards, is_second=is_second), ["r"])
    if is_second and len(set(rewards)) == 1:  # no group says anything: the first question
        assert [(one["label"], one["completion"]) for one in found] == [("best", "x")]
        return
    assert [(one["label"], one["completion"]) for one in found] == wanted
    assert {one["prompt"] for one in found} == {"Asked?"}
    for one in found:
        given = rewards[TEXTS.index(one["completion"])]
        assert one["rewards"] == {"r": None if np.isnan(given) else given}


def test_equal_texts_are_shown_once() -> None:
    found = samples(TOKENIZER, rollouts([1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"]), ["r"])
    assert [one["label"] for one in found] == ["best", "worst"]
    alone = samples(TOKENIZER, rollouts([0.0] * 4, ["a"] * 4), ["r"])
    assert [one["label"] for one in alone] == ["best"]


def test_what_is_not_scored_is_there_whole() -> None:
    given = rollouts([1.0, 0.5, 0.0, 0.25])
    given.weighed, given.scored[5:, 0] = None, False
    found = not_scored(TOKENIZER, given, ["r"])
    assert [one["completion"] for one in found] == [*TEXTS[:4], *["x"] * 4]
    assert [one["rewards"]["r"] for one in found] == [1.0, 0.5, 0.0, 0.25, 9.0, None, None, None]
    assert {(one["label"], one["reward"], one["advantage"]) for one in found} == {
        (NOT_SCORED, None, None)
    }


def test_a_terminal_is_shown_one_line_each_that_moves_nothing() -> None:
    texts = ["bell \x07 and \x1b[2Jclear\nnext", "w" * 900, "b", "c"]
    told = in_words(samples(TOKENIZER, rollouts([0.9, 0.5, 0.4, 0.1], texts), ["r"]))
    lines = told.split("\n")
    assert len(lines) == 4 and lines[0] == "  asked: Asked?"
    assert lines[1].startswith("  best, reward 0.900 (r 0.9): bell \ufffd and \ufffd[2Jclear next")
    assert lines[2].startswith("  typical, reward 0.400") and lines[3].endswith("(r 0.1): c")
    assert all(char.isprintable() for char in told.replace("\n", ""))
