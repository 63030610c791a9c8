"""Which answers are shown: by the rule that is written beside them, whatever their order."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.report.evaluation_files import Answer, Scores
from lorakit.report.files import RunFiles, read_run
from lorakit.report.samples import chosen_metric, chosen_samples, forgotten_samples


@pytest.fixture
def run(made: Path) -> RunFiles:
    return read_run(made / "first")


def gains(run: RunFiles, name: str, metric: str) -> dict[int, float]:
    return {
        one.index: one.scores[metric].tuned - one.scores[metric].base
        for one in run.answers
        if one.set == name
    }


def test_best_typical_and_worst_are_what_they_are_called(run: RunFiles) -> None:
    for shown, name in zip(chosen_samples(run), ("in_domain", "out_of_domain"), strict=True):
        by_index = gains(run, name, "content")
        ranked = sorted(by_index.values())
        best, typical, worst = shown.samples
        assert (best.label, typical.label, worst.label) == ("Best", "Typical", "Worst")
        assert by_index[best.answer.index] == ranked[-1]
        assert by_index[typical.answer.index] == ranked[len(ranked) // 2]
        assert by_index[worst.answer.index] == ranked[0]
        assert best.change == pytest.approx(ranked[-1])
        assert "content score" in shown.rule and "21 answered examples" in shown.rule


def test_the_order_of_the_file_and_ties_do_not_matter(run: RunFiles) -> None:
    tied = [
        one.model_copy(update={"scores": {"content": Scores(base=0, tuned=one.index % 3)}})
        for one in run.answers
    ]
    mixed = list(tied)
    random.Random(1).shuffle(mixed)
    first, second = (chosen_samples(replace(run, answers=one)) for one in (tied, mixed))
    assert first == second
    assert [one.answer.index for one in first[0].samples] == [2, 10, 0]


def test_where_lower_is_better_best_is_the_largest_fall(run: RunFiles) -> None:
    evaluated = run.evaluation["in_domain"]
    change = evaluated.metrics["content"].model_copy(update={"higher_is_better": False})
    lower = evaluated.model_copy(update={"metrics": evaluated.metrics | {"content": change}})
    turned = replace(run, evaluation=run.evaluation | {"in_domain": lower})
    shown, usual = chosen_samples(turned)[0].samples, chosen_samples(run)[0].samples
    assert shown[0].answer == usual[2].answer
    assert shown[2].answer == usual[0].answer


@pytest.mark.parametrize("num_answers", [1, 2, 3])
def test_few_answers_are_shown_once_each(num_answers: int, run: RunFiles) -> None:
    answers = [one for one in run.answers if one.set == "in_domain"][:num_answers]
    (shown,) = chosen_samples(replace(run, answers=answers))
    indices = [one.answer.index for one in shown.samples]
    assert len(indices) == len(set(indices)) == num_answers


def test_the_metric_is_the_primary_one_where_answers_have_it(run: RunFiles) -> None:
    assert chosen_metric(run, "in_domain") == ("content", True)
    assert run.evaluation["retention"].primary == "loss"
    assert chosen_metric(run, "retention") == ("token_f1", True)


def test_forgotten_are_the_largest_losses_of_retention(run: RunFiles) -> None:
    shown = forgotten_samples(run)
    assert shown is not None
    ranked = sorted(gains(run, "retention", "token_f1").values())
    assert [one.change for one in shown.samples] == pytest.approx(ranked[:3])
    lost = sum(gain < 0 for gain in ranked)
    assert shown.rule.startswith(f"{lost} of 21 answered examples scored lower")


def test_nothing_forgotten_shows_nothing(run: RunFiles) -> None:
    def kept(one: Answer) -> Answer:
        return one.model_copy(update={"scores": {"token_f1": Scores(base=0.5, tuned=0.5)}})

    shown = forgotten_samples(replace(run, answers=[kept(one) for one in run.answers]))
    assert shown is not None and shown.samples == []
    assert shown.rule == "0 of 21 answered examples scored lower than before in token F1."
    assert forgotten_samples(replace(run, answers=[])) is None
