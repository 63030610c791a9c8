"""Plots: what is on which axis, what an axis has to hold, and matplotlib left as it was."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from lorakit.report import svg
from lorakit.report.curves import MAX_POINTS, curves, draw_curve, overlaid_curves, thinned
from lorakit.report.evaluation_files import Change
from lorakit.report.files import RunFiles, read_run
from lorakit.report.forest import AXIS, Forest, ForestRow, draw_forest, forests
from tests.report.pages import parse


@pytest.fixture
def run(made: Path) -> RunFiles:
    return read_run(made / "first")


def test_loss_has_an_axis_of_its_own_and_scores_share_one(run: RunFiles) -> None:
    loss, *scores = forests(run)
    assert loss.title == "Loss" and not loss.higher_is_better
    assert [row.label for row in loss.rows] == [
        "In-domain",
        "In-domain, with typos",
        "Out-of-domain",
        "Retention (primary)",
    ]
    assert [row.margin for row in loss.rows] == [None, None, None, 0.1]
    assert [one.title for one in scores] == [
        "In-domain: scores",
        "Out-of-domain: scores",
        "Retention: scores",
    ]
    assert scores[0].span == scores[2].span == [row for one in scores for row in one.rows]


def row(low: float, high: float, *, higher_is_better: bool, **more: float) -> ForestRow:
    middle = (low + high) / 2
    change = Change(
        base=0,
        tuned=middle,
        difference=middle,
        interval=(low, high),
        higher_is_better=higher_is_better,
    )
    return ForestRow("label $a$ <b>", change, **more)


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_better_is_always_on_the_right(higher_is_better: bool) -> None:
    sign = 1 if higher_is_better else -1
    rows = [
        row(*sorted((sign * low, sign * high)), higher_is_better=higher_is_better)
        for low, high in ((-0.9, -0.7), (-0.1, 0.1), (0.5, 0.8))
    ]
    drawn = parse(draw_forest(Forest("f", "F", rows, rows)))
    places = []
    for element in drawn.all("use"):
        # Of the strokes, only those of the rows have a colour of effects; ticks are lines.
        if re.search(r"var\(--(better|worse|same)\)", element.attributes["style"]):
            places.append(float(element.attributes["x"]))
    assert len(places) == 3
    assert places == sorted(places)
    texts = [one.text for one in drawn.all("text")]
    assert any(AXIS in text for text in texts) and texts.count("label $a$ <b>") == 3


def test_an_interval_without_numbers_is_said_not_drawn() -> None:
    change = Change(base=None, tuned=None, difference=None, interval=(None, None))
    one = ForestRow("odd", change)
    drawn = parse(draw_forest(Forest("f", "F", [one], [one])))
    assert "beyond a number" in [text.text for text in drawn.all("text")]


def test_curves_of_a_run(run: RunFiles) -> None:
    loss, rate, memory, speed = curves(run.metrics, run.plan)
    assert [line.label for line in loss.lines] == ["train", "validation"]
    assert loss.lines[1].steps == [40, 80, 120, 160]
    assert memory.title.endswith("MiB") and memory.level == (310.0, "plan: 310 MiB")
    assert max(memory.lines[0].values) == pytest.approx(304)
    assert rate.from_zero and speed.from_zero and not loss.from_zero
    (description,) = parse(draw_curve(loss)).all("desc")
    assert "validation: " in description.text and "at step 160" in description.text


def test_curves_without_a_plan_or_with_one_step(run: RunFiles) -> None:
    _, _, memory, _ = curves(run.metrics[:1], None)
    assert memory.level is None
    assert parse(draw_curve(memory)).all("use")  # a point where there is no line


def test_runs_are_told_apart_without_colour(run: RunFiles) -> None:
    loss, validation, *_ = overlaid_curves(
        [(letter, f"run-{n}", run.metrics) for n, letter in enumerate("ABCD", 1)]
    )
    assert len({str(line.dashes) for line in loss.lines}) == 4
    texts = [one.text for one in parse(draw_curve(validation)).all("text")]
    assert set("ABCD") <= set(texts)


@pytest.mark.parametrize("count", [1, 2, MAX_POINTS, MAX_POINTS + 1, 5000])
def test_thinning_keeps_the_mean_and_the_ends(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count).tolist()
    steps, means = thinned(range(1, count + 1), values)
    assert len(steps) == len(means) == min(count, MAX_POINTS)
    assert steps == sorted(steps) and steps[0] >= 1 and steps[-1] <= count
    weights = [len(part) for part in np.array_split(np.arange(count), len(means))]
    assert np.average(means, weights=weights) == pytest.approx(np.mean(values))


def test_matplotlib_is_left_as_it_was(run: RunFiles) -> None:
    before = dict(matplotlib.rcParams)
    drawn = draw_curve(curves(run.metrics, run.plan)[0])
    assert dict(matplotlib.rcParams) == before
    assert drawn == draw_curve(curves(run.metrics, run.plan)[0])
    # pyplot keeps figures and a backend for the whole process.
    for source in Path(svg.__file__).parent.glob("*.py"):
        assert "pyplot" not in source.read_text("utf-8")
