"""What counts as nearly the same: trifles, and nothing that makes another question or answer."""

from __future__ import annotations

import numpy as np
import pytest

from lorakit.lint.near import repeats_of
from lorakit.lint.row_texts import RowText, Sample
from lorakit.lint.trifles import calculate_otherwise

ANSWER = (
    "Asthma is a chronic disease of the airways that makes breathing difficult; inhaled steroids "
    "taken every day keep the inflammation down, and a reliever opens the airways in an attack."
)


def sample(name: str, pairs: list[tuple[str, str]]) -> Sample:
    rows = tuple(
        RowText(i, f"{name}:{i + 1}", (("user", question), ("assistant", answer)), (False, True))
        for i, (question, answer) in enumerate(pairs)
    )
    return Sample(name, rows, len(rows), np.ones(len(rows)))


QUESTION = "What should a patient with asthma take every day to breathe well?"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what should a patient with asthma take every day to breathe well", ANSWER),
        ("What should the patient with asthma take every day, to breathe well?", ANSWER.lower()),
        ("What should a patiant with asthma take every day to breathe well?", ANSWER),
        ("Please: what should a patient with asthma take every day to breathe well?", ANSWER),
        ("What should a patient with asthma use every day to breathe well?", ANSWER),
        (QUESTION, ANSWER.replace("difficult", "hard").replace("attack", "emergency")),
    ],
)
def test_trifles_make_no_other_row(question: str, answer: str) -> None:
    train = sample("train", [(QUESTION, ANSWER), (question, answer)])
    (pair,) = repeats_of(train, {}).within
    assert (pair.row.where, pair.like.where) == ("train:2", "train:1")
    held = repeats_of(
        sample("train", [(QUESTION, ANSWER)]), {"test": sample("test", [(question, answer)])}
    )
    assert [one.like.where for one in held.across["test"]] == ["train:1"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            QUESTION.replace("asthma", "gout"),
            "Gout is treated with allopurinol for as long as needed.",
        ),
        (QUESTION, ANSWER.replace("every day", "2 times a day")),
        (QUESTION.replace("should", "should not"), ANSWER.replace("is a", "is not a")),
        (QUESTION, "A reliever."),
    ],
)
def test_a_topic_a_number_a_negation_make_another_row(question: str, answer: str) -> None:
    assert not repeats_of(sample("train", [(QUESTION, ANSWER), (question, answer)]), {}).within


THINK = "Think inside <think> and </think>, then give the result inside <answer> and </answer>."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 - 0", "0 + 3"),
        ("3-0", "3+0"),
        ("12-1", "12/1"),
        ("x-y", "x/y"),
        ("12 * 1", "12 / 1"),
        ("12 x 1", "12 - 1"),
        ("x + y", "x - y"),
        ("(a) - (b)", "(a) + (b)"),
        ("3 < 5", "3 > 5"),
        ("2 ** 2", "2 * 2"),
        ("$5 + $3", "$5 - $3"),
    ],
)
def test_another_sign_between_operands_makes_another_row(one: str, other: str) -> None:
    pairs = [
        (f"{THINK}\nHow much is {sum}?", f"<think>{sum} is known to be 3 here.</think> {ANSWER}")
        for sum in (one, other)
    ]
    assert not repeats_of(sample("train", pairs), {}).within


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("- take 3\n- rest\n- drink 2", "* take 3\n* rest\n* drink 2"),
        ("Take 3\n- 2 spoons of it", "Take 3\n+ 2 spoons of it"),
        ("- 3 tablets, well-known", "* 3 tablets, well known"),
        ("5-10 mg", "5–10 mg"),  # noqa: RUF001
        ("5 - 10 mg", "5 to 10 mg"),
        ("3 x 4", "3 * 4"),
        ("3 × 4", "3 * 4"),  # noqa: RUF001
        ("since 2026-01-31, 6/3", "since 2026/01/31, 6/3"),
        ("2 + 3", "2+3"),
        ("Room 3-B on the left", "Room 3/B on the left"),
        ("Monday 9-5 and no longer", "Monday 9/5 and no longer"),
        ("Vitamin A/D in drops", "Vitamin A-D in drops"),
    ],
)
def test_marks_of_lists_dashes_and_spellings_make_no_other_row(one: str, other: str) -> None:
    pairs = [(f"{THINK}\n{QUESTION}", f"{ANSWER}\n{text}\n{ANSWER}") for text in (one, other)]
    assert len(repeats_of(sample("train", pairs), {}).within) == 1


@pytest.mark.parametrize(
    "form",
    [
        "How much is 12{}4?",
        "Calculate 12{}4 for me",
        "so 12{}4 = 8 it is",
        "then 12{}4=8 it is",
        "12{}4",
        "first\n 12{}4 \nlast",
        "take 2*12{}4 of it",
        "the value of $12{}4",
        "if x is y{}4 then",
        "they add 12 {} 4 then",
    ],
)
def test_a_dash_is_no_slash_where_it_calculates(form: str) -> None:
    assert calculate_otherwise(form.format("-"), form.format("/"))
    assert not calculate_otherwise(form.format("-"), form.format("-"))


def test_labels_under_a_long_instruction_are_not_alike() -> None:
    instruction = "Read the message and answer with one label of billing, delivery, praise. " * 8
    said = ["the parcel is late", "i was charged twice", "lovely shop", "the lamp arrived broken"]
    rows = [
        (f"{instruction} Message: {text} again {i}", "praise") for i, text in enumerate(said * 30)
    ]
    train = sample("train", [*rows, (f"{instruction} Message: lovely shop again 2!", "praise")])
    assert [pair.row.where for pair in repeats_of(train, {}).within] == ["train:121"]


def test_equal_rows_are_the_contracts_to_tell() -> None:
    assert not repeats_of(sample("train", [(QUESTION, ANSWER)] * 3), {}).within


def test_a_question_of_train_with_another_answer_is_no_held_out_row() -> None:
    train, test = sample("train", [(QUESTION, ANSWER)]), sample("test", [(QUESTION, "Steroids.")])
    found = repeats_of(train, {"test": test})
    assert not found.across["test"]
    assert [pair.like.where for pair in found.same_prompt["test"]] == ["train:1"]
