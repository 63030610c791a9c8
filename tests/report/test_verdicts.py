"""What the numbers are said to mean: words, marks, and the one sentence at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.report.evaluation_files import Change
from lorakit.report.files import read_run
from lorakit.report.verdicts import effect_of, headline, set_verdicts
from tests.report import runs


def evaluated(tmp_path: Path, **sets: dict[str, Any]):
    runs.write(tmp_path / "evaluation.json", sets)
    return read_run(tmp_path)


def one_set(
    difference: float,
    half_width: float,
    verdict: str,
    *,
    margin: float | None = None,
    higher_is_better: bool = False,
    examples: int = 100,
) -> dict[str, Any]:
    change = runs.change(2.0, 2.0 + difference, half_width, higher_is_better=higher_is_better)
    return {
        "examples": examples,
        "metrics": {"loss": change},
        "primary": "loss",
        "verdict": verdict,
        "margin": margin,
        "notes": [],
    }


BETTER = one_set(-1, 0.1, "better")
SAME = one_set(0, 0.1, "no difference")
WORSE = one_set(1, 0.1, "worse")


@pytest.mark.parametrize("higher_is_better", [False, True])
@pytest.mark.parametrize(
    ("interval", "rising"),
    [((0.1, 0.3), 1), ((-0.3, -0.1), -1), ((-0.1, 0.2), 0), ((0.0, 0.2), 0), ((None, 0.2), 0)],
)
def test_an_effect_is_an_interval_without_zero(
    interval: tuple[float | None, float], rising: int, higher_is_better: bool
) -> None:
    change = Change(
        base=0, tuned=0, difference=0, interval=interval, higher_is_better=higher_is_better
    )
    good = rising if higher_is_better else -rising
    assert effect_of(change) == {1: "better", 0: "same", -1: "worse"}[good]


@pytest.mark.parametrize(
    ("name", "gain", "effect"),
    [
        ("retention", 0.5, "same"),  # answers to general questions in the form of the task
        ("retention", -0.5, "worse"),
        ("in_domain", 0.5, "better"),
    ],
)
def test_on_retention_only_losses_count_in_what_does_not_decide(
    name: str, gain: float, effect: str, tmp_path: Path
) -> None:
    one = one_set(0, 0.1, "no difference", margin=0.1 if name == "retention" else None)
    one["metrics"]["regex"] = runs.change(0.4, 0.4 + gain, 0.1, higher_is_better=True)
    found = evaluated(tmp_path, **{name: one}).evaluation[name]
    assert effect_of(found.metrics["regex"]) == effect
    assert effect_of(Change(**one_set(-1, 0.1, "better")["metrics"]["loss"])) == "better"


@pytest.mark.parametrize("higher_is_better", [False, True])
@pytest.mark.parametrize(
    ("harm", "half_width", "verdict", "word", "mark"),
    [
        (0.02, 0.03, "no difference", "kept", "kept"),
        (0.04, 0.03, "no difference", "kept", "kept"),  # lost, but within the margin
        (-0.2, 0.03, "better", "better", "better"),
        (0.20, 0.03, "worse", "not kept", "worse"),
        (0.10, 0.03, "worse", "not shown to be kept", "worse"),
        (0.02, 0.30, "worse", "not shown to be kept", "worse"),
    ],
)
def test_retention_is_told_by_its_margin(
    harm: float,
    half_width: float,
    verdict: str,
    word: str,
    mark: str,
    higher_is_better: bool,
    tmp_path: Path,
) -> None:
    difference = -harm if higher_is_better else harm
    retention = one_set(
        difference, half_width, verdict, margin=0.1, higher_is_better=higher_is_better
    )
    (told,) = set_verdicts(evaluated(tmp_path, retention=retention))
    assert (told.word, told.effect) == (word, mark)


@pytest.mark.parametrize("name", ["in_domain", "retention"])
@pytest.mark.parametrize("counted_by", ["set", "metric"])
def test_few_examples_say_nothing_whatever_their_interval(
    name: str, counted_by: str, tmp_path: Path
) -> None:
    few = one_set(-1, 0.1, "no difference", margin=0.1 if name == "retention" else None)
    if counted_by == "set":
        few["examples"] = MIN_EXAMPLES - 1
    else:
        few["metrics"]["loss"]["examples"] = MIN_EXAMPLES - 1
    run = evaluated(tmp_path, **{name: few})
    (told,) = set_verdicts(run)
    assert (told.word, told.effect) == ("too few examples to tell", "few")
    assert effect_of(run.evaluation[name].metrics["loss"]) == "few"


def test_a_sentence_has_every_number(tmp_path: Path) -> None:
    runs.write(
        tmp_path / "evaluation.json", {"in_domain": BETTER | {"available": 400, "notes": ["n 1"]}}
    )
    (told,) = set_verdicts(read_run(tmp_path))
    for number in ("2.000", "1.000", "\u22121.000", "\u22121.100 to \u22120.900", "100", "400"):
        assert number in told.sentence
    assert "lower is better" in told.sentence
    assert told.notes == ("n 1",)


KEPT = one_set(0.01, 0.01, "no difference", margin=0.1)
LOST = one_set(0.5, 0.01, "worse", margin=0.1)
FEW = one_set(-1, 0.1, "no difference") | {"examples": MIN_EXAMPLES - 1}
UNSURE = one_set(0.0, 0.5, "worse", margin=0.1)


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        ({}, "Nothing was trained or evaluated: there is no evaluation.json"),
        (
            {"in_domain": BETTER},
            "The adapter is better than its base at the task; what it forgot was not measured.",
        ),
        (
            {"in_domain": BETTER, "out_of_domain": BETTER, "retention": KEPT},
            "The adapter is better than its base at the task, in-domain and out-of-domain, and it "
            "kept what the base could do.",
        ),
        (
            {"in_domain": BETTER, "out_of_domain": SAME, "retention": LOST},
            "The adapter is better than its base at the task in-domain, no different "
            "out-of-domain, but it lost more than allowed of what the base could do.",
        ),
        (
            {"in_domain": SAME, "retention": UNSURE},
            "The adapter shows no difference from its base at the task, but it is not shown that "
            "it kept what the base could do.",
        ),
        (
            {"in_domain": FEW, "out_of_domain": SAME, "retention": KEPT},
            "Too few examples tell what the adapter does for its task, and it kept",
        ),
        (
            {"in_domain": SAME, "out_of_domain": FEW},
            "The adapter shows no difference from its base at the task in-domain, too few examples "
            "tell about out-of-domain; what it forgot was not measured.",
        ),
        ({"in_domain": WORSE, "retention": KEPT}, "The adapter is worse than its base"),
        ({"retention": KEPT}, "What the adapter does for its task was not measured, and it kept"),
    ],
)
def test_the_headline(sets: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    runs.write(tmp_path / "choices.json", runs.choices_file())
    if sets:
        runs.write(tmp_path / "evaluation.json", sets)
    assert headline(read_run(tmp_path)).startswith(sentence)


def truncated(one: dict[str, Any], tuned: int, *, base: int = 0, answers: int = 100) -> Any:
    return one | {"truncated": {"answers": answers, "base": base, "tuned": tuned}}


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (
            {"in_domain": truncated(BETTER, 60), "retention": LOST},
            "The adapter is better than its base at the task, although 60 of its 100 answers did "
            "not stop within evaluate.max_new_tokens, but it lost more than allowed",
        ),
        (  # of all sets of the task together
            {"in_domain": truncated(BETTER, 9), "out_of_domain": truncated(SAME, 20, answers=50)},
            "The adapter is better than its base at the task in-domain, no different "
            "out-of-domain, although 29 of its 150 answers did not stop",
        ),
        (
            {"in_domain": truncated(SAME, 100), "retention": KEPT},
            "The adapter shows no difference from its base at the task, and 100 of its 100 answers "
            "did not stop within evaluate.max_new_tokens, and it kept",
        ),
    ],
)
def test_the_headline_says_that_answers_do_not_stop(
    sets: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    assert headline(evaluated(tmp_path, **sets)).startswith(sentence)


@pytest.mark.parametrize(
    "told",
    [
        truncated(BETTER, 9),  # few
        truncated(BETTER, 0, base=100),  # the base did not stop, the adapter does
        BETTER,  # a run of before, or one without scorers
    ],
)
def test_the_headline_is_silent_of_answers_that_stop(told: dict[str, Any], tmp_path: Path) -> None:
    plain = "The adapter is better than its base at the task; what it forgot was not measured."
    assert headline(evaluated(tmp_path, in_domain=told)) == plain
