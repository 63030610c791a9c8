"""Copied answers: the longest shared run by brute force, and what counts as copied."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.reading import DataRules
from lorakit.evaluate import memorisation
from lorakit.evaluate.memorisation import (
    TrainingAnswers,
    is_copied,
    measure_memorisation,
    training_answers,
)
from lorakit.evaluate.result import AnsweredExample
from lorakit.evaluate.shared_runs import MIN_RUN, SharedRun, longest_runs
from tests import tiny


def brute_force(answer: list[str], corpus: list[list[str]]) -> int:
    """Length of the longest run of at least MIN_RUN words."""
    for length in range(len(answer), MIN_RUN - 1, -1):
        mine = {tuple(answer[i : i + length]) for i in range(len(answer) - length + 1)}
        for text in corpus:
            if any(tuple(text[i : i + length]) in mine for i in range(len(text) - length + 1)):
                return length
    return 0


def test_runs_are_those_of_brute_force() -> None:
    """Few words, so that runs of every length occur, at the ends of texts too."""
    draw = random.Random(0)
    corpus = [draw.choices("abc", k=draw.randint(0, 60)) for _ in range(40)]
    answers = [draw.choices("abcd", weights=[9, 9, 9, 1], k=draw.randint(0, 40)) for _ in range(40)]
    answers += [corpus[5], corpus[7][3:], corpus[9] + corpus[10], ["z"] * 20, []]
    found = longest_runs(answers, corpus)
    lengths = [one.length for one in found]
    assert lengths == [brute_force(answer, corpus) for answer in answers]
    assert len(set(lengths)) > 6
    for answer, one in zip(answers, found, strict=True):
        assert one.total == len(answer)
        run = answer[one.start : one.start + one.length]
        assert one.length == 0 or " ".join(run) in " ".join(corpus[one.source])


def test_a_run_never_crosses_from_one_text_into_the_next() -> None:
    words = [str(n) for n in range(20)]
    assert longest_runs([words], [words[:10], words[10:]])[0].length == 10
    assert longest_runs([words[:10], words[10:]], [words])[1].length == 10
    assert longest_runs([words[:7]], [words])[0] == SharedRun(0, 7)
    assert longest_runs([], [words]) == [] and longest_runs([words], [])[0].length == 0


@pytest.mark.parametrize(
    ("length", "total", "copied"),
    [(0, 5, False), (8, 8, True), (8, 9, False), (49, 80, False), (50, 80, True), (30, 30, True)],
)
def test_what_counts_as_copied(length: int, total: int, copied: bool) -> None:
    assert is_copied(SharedRun(length, total)) is copied


def example(index: int, reference: str, base: str, tuned: str) -> AnsweredExample:
    return AnsweredExample(index, "asked", reference, base, tuned, {})


SENTENCES = [
    f"drink {n} glasses of plain water each day and rest in a cool room for {n} hours at least"
    for n in range(30)
]


def training(texts: list[str]) -> TrainingAnswers:
    return TrainingAnswers([memorisation.words(text) for text in texts], list(range(30)), 30)


class Rows(list):
    """Rows that know where they stand."""

    def __init__(self) -> None:
        super().__init__(type("Row", (), {"location": f"train.jsonl:{n}"}) for n in range(30))


def test_answers_copied_from_training_stand_out_against_references() -> None:
    own = [
        f"completely different advice number {n} that nobody else ever wrote down"
        for n in range(30)
    ]
    examples = [example(n, own[n], "no idea", SENTENCES[-1 - n]) for n in range(30)]
    found = measure_memorisation(examples, training(SENTENCES), Rows(), seed=0)
    assert found is not None
    assert (found.copied.base, found.copied.tuned, found.base_copied) == (0, 1, 0)
    assert found.copied.interval[0] > 0.9 and (found.copied.p_value or 1) < 1e-3
    assert found.shown[0].text == " ".join(memorisation.words(SENTENCES[-1]))
    assert (found.shown[0].index, found.shown[0].where) == (0, "train.jsonl:29")
    told: Any = found.to_json()
    assert told["copied"]["references"] == 0 and told["copied"]["tuned"] == 1
    assert told["longest_run"]["tuned"] == pytest.approx(len(memorisation.words(SENTENCES[-1])))


def test_data_that_repeat_themselves_are_no_memorisation() -> None:
    """Right answers stand in the training data as well: tuned does what the data do."""
    examples = [example(n, SENTENCES[n], "no idea", SENTENCES[-1 - n]) for n in range(30)]
    found = measure_memorisation(examples, training(SENTENCES), Rows(), seed=0)
    assert found is not None and found.copied.tuned == found.copied.base == 1
    assert found.copied.interval == (0, 0) and found.copied.p_value == 1
    assert measure_memorisation([], training(SENTENCES), Rows(), seed=0) is None
    assert measure_memorisation(examples, TrainingAnswers([], [], 9), Rows(), seed=0) is None


def prepared(rows: list[dict[str, Any]]) -> Prepared:
    return prepare_examples([rows], tiny.tokenizer(), DataRules())


def test_training_answers_to_the_same_question_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"prompt": f"What helps {n}?", "completion": f"Take {n} pills."} for n in range(6)]
    talk = {
        "messages": [
            {"role": role, "content": text}
            for role, text in [
                ("user", "Hello?"),
                ("assistant", "First answer."),
                ("user", "And then?"),
                ("assistant", "Second answer."),
            ]
        ]
    }
    train = prepare_examples(
        [rows, [talk], [{"text": "Plain text here."}]], tiny.tokenizer(), DataRules()
    )
    asked = [train.examples[2].input_ids[: int(np.argmax(train.examples[2].loss_weights > 0))]]
    found = training_answers(tiny.tokenizer(), train.examples, asked, seed=0)
    told = [" ".join(text) for text in found.texts]
    assert told == [
        "take 0 pills",
        "take 1 pills",
        "take 3 pills",
        "take 4 pills",
        "take 5 pills",
        "first answer",
        "second answer",
        "lain text here",  # nothing predicts the first token
    ]
    assert found.places == [0, 1, 3, 4, 5, 6, 6, 7] and found.available == 8
    monkeypatch.setattr(memorisation, "MAX_TRAINING", 3)
    few = training_answers(tiny.tokenizer(), train.examples, [], seed=0)
    again = training_answers(tiny.tokenizer(), train.examples, [], seed=0)
    other = training_answers(tiny.tokenizer(), train.examples, [], seed=2)
    assert len(set(few.places)) == 3 and few == again != other
