"""A variant against its source: paired by row, by hand, and where a row is missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lorakit.evaluate.judge import Scores, judge
from lorakit.evaluate.result import AnsweredExample, Measured, SetResult
from lorakit.evaluate.variants import measure_variant, same_rows
from lorakit.train.losses import ExampleLosses


@dataclass(frozen=True)
class Place:
    """As much of a row as pairs it."""

    location: str


def places(*numbers: int) -> Any:
    return [Place(f"a.jsonl:{n}") for n in numbers]


def test_rows_are_paired_by_where_they_stand() -> None:
    assert same_rows(places(1, 2, 3), places(1, 2, 3)) == {0: 0, 1: 1, 2: 2}
    assert same_rows(places(1, 2, 3, 9), places(2, 9)) == {1: 0, 3: 1}
    assert same_rows(places(1, 2), []) == {}


def measured(indices: list[int], base: float, tuned: float, score: float) -> SetResult:
    """Losses and scores that are functions of the row's number, and a shift."""
    row = np.array(indices, float)
    weight = 3.0 + row % 4
    losses = [ExampleLosses((x + row % 7 / 10) * weight, weight) for x in (base, tuned)]
    scores = [0.5 + row % 3 / 10, 0.5 + row % 3 / 10 + score]
    result = judge(
        *losses, metrics=[], primary="loss", margin=None, scores={"token_f1": Scores(*scores)}
    )
    answered = tuple(
        AnsweredExample(i, "", "", "", "", {"token_f1": (float(b), float(t))})
        for i, b, t in zip(indices, *scores, strict=True)
    )
    return replace(
        result, answered=answered, measured=Measured(np.array(indices), losses[0], losses[1])
    )


def test_what_is_lost_is_paired_by_row() -> None:
    """Row 5 is not in the variant; hardness differs by row and cancels only if rows are paired."""
    given = measured(list(range(30)), 2.0, 1.0, 0.3)
    rest = [i for i in range(30) if i != 5]
    shifted = {i: place for place, i in enumerate(rest)}
    varied = measured(rest, 2.1, 1.4, 0.1)
    assert varied.measured is not None
    own = np.arange(29)
    varied = replace(
        varied,
        measured=replace(varied.measured, indices=own),
        answered=tuple(replace(one, index=shifted[one.index]) for one in varied.answered),
    )
    found = measure_variant(given, varied, shifted, source="in_domain", name="typos", seed=0)
    loss, f1 = found.metrics["loss"], found.metrics["token_f1"]
    assert list(found.metrics) == ["loss", "token_f1"] and loss.examples == f1.examples == 29
    assert loss.base.difference == pytest.approx(0.1) and loss.tuned.difference == pytest.approx(
        0.4
    )
    assert loss.tuned.interval == pytest.approx((0.4, 0.4)) and loss.extra == pytest.approx(0.3)
    assert f1.tuned.difference == pytest.approx(-0.2) and f1.base.difference == pytest.approx(0)
    assert f1.higher_is_better and not loss.higher_is_better
    told: Any = found.to_json()
    assert (told["source"], told["name"], told["how"]) == ("in_domain", "typos", "with typos")
    assert told["metrics"]["loss"]["extra"]["difference"] == pytest.approx(0.3)


def test_losses_beyond_any_number_are_left_out() -> None:
    given, varied = measured(list(range(25)), 2, 1, 0.1), measured(list(range(25)), 2, 1, 0.1)
    assert varied.measured is not None
    varied.measured.tuned.nll[3] = np.inf
    found = measure_variant(
        given, varied, {i: i for i in range(25)}, source="in_domain", name="case", seed=0
    )
    assert list(found.metrics) == ["token_f1"]
