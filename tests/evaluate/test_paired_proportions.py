"""Few examples that differ show little about how much can be lost."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from lorakit.compare.recommend import Terms
from lorakit.compare.table import SetUp, WayRow, conclude, qualities
from lorakit.evaluate.judge import Scores, judge
from lorakit.evaluate.paired_proportions import tango_interval, tango_p_value
from lorakit.evaluate.result import SetResult
from lorakit.train.losses import ExampleLosses
from tests.compare.made import measured, questions


def columns(gained: int, lost: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    base, tuned = np.ones(count), np.ones(count)
    base[:gained] = 0
    tuned[gained : gained + lost] = 0
    return base, tuned


def judged(
    gained: int, lost: int, count: int, margin: float | None, *, higher_is_better: bool = True
) -> SetResult:
    base, tuned = columns(gained, lost, count)
    losses = ExampleLosses(np.ones(count), np.ones(count))
    scores = Scores(base, tuned, higher_is_better)
    return judge(
        losses,
        losses,
        metrics=["loss"],
        primary="right",
        margin=margin,
        scores={"right": scores},
    )


@pytest.mark.parametrize("count", [20, 30, 50, 100, 200])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
def test_a_margin_is_kept_by_chance_as_rarely_as_is_promised(count: int, margin: float) -> None:
    """All ways in which examples may be lost of which each is with the odds of the margin."""
    by_chance = 0.0
    for lost in range(count + 1):
        if judged(0, lost, count, margin).verdict == "worse":
            break  # so it is with more
        by_chance += comb(count, lost) * margin**lost * (1 - margin) ** (count - lost)
    assert by_chance <= 0.03  # 2.5 % on this side; Tango's interval is an approximation


@pytest.mark.parametrize("count", [20, 100, 400])
def test_of_examples_that_agree_the_interval_says_how_many_there_are(count: int) -> None:
    low, high = tango_interval(0, 0, count)
    assert high == pytest.approx(1.96**2 / (count + 1.96**2), rel=1e-3) and low == -high
    assert judged(0, 0, count, None).metrics["right"].interval == (low, high)
    assert judged(0, 0, count, None).verdict == "no difference"


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (12, 2), (0, 17), (25, 25)])
@pytest.mark.parametrize("count", [50, 120])
def test_an_interval_ends_where_its_p_value_begins_to_tell(
    gained: int, lost: int, count: int
) -> None:
    low, high = tango_interval(gained, lost, count)
    assert -1 <= low <= (gained - lost) / count <= high <= 1
    for bound, outwards in ((low, -1e-6), (high, 1e-6)):
        assert tango_p_value(gained, lost, count, bound) == pytest.approx(0.05, abs=1e-6)
        assert tango_p_value(gained, lost, count, bound + outwards) < 0.05
    assert (low, high) == pytest.approx(
        tuple(-b for b in reversed(tango_interval(lost, gained, count)))
    )


@pytest.mark.parametrize("gained", range(0, 14))
@pytest.mark.parametrize("lost", [0, 1, 4])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_whether_there_is_a_difference_stays_with_mcnemar(
    gained: int, lost: int, higher_is_better: bool
) -> None:
    found = judged(gained, lost, 40, None, higher_is_better=higher_is_better).metrics["right"]
    low, high = found.interval
    pairs = found.mcnemar
    assert pairs is not None
    if abs(pairs.mid_p - 0.05) > 0.01:  # resampling is drawn
        assert (low > 0 or high < 0) == (pairs.mid_p < 0.05)
    assert low <= found.difference <= high


@pytest.mark.parametrize("lost", [0, 1, 2, 5, 12, 30])
@pytest.mark.parametrize("margin", [0.05, 0.2])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_p_value_of_a_margin_says_what_the_interval_says(
    lost: int, margin: float, higher_is_better: bool
) -> None:
    gained = 0 if higher_is_better else lost
    found = judged(gained, lost - gained, 80, margin, higher_is_better=higher_is_better)
    low, high = found.metrics["right"].losses
    assert found.p_value is not None
    assert (found.p_value < 0.05) == (low > margin or high <= margin)


def test_a_cheaper_way_that_was_right_as_often_in_twenty_questions_is_not_shown_to_be() -> None:
    """Compare takes no way for good enough because too few questions were asked."""
    for count, verdict in ((20, "too few examples to tell"), (400, "recommended")):
        right = np.ones(count)
        once_wrong = np.where(np.arange(count) == 0, 0.0, 1.0)
        ways = [
            measured("base", {"exact_match": once_wrong}),
            measured("tuned", {"exact_match": right}),
        ]
        quality = qualities(ways, questions([1] * count), seed=0)
        costs = {"base": 1.0, "tuned": 2.0}
        rows = [
            WayRow(one, quality[one.way.name], costs[one.way.name], SetUp({}, 0.0)) for one in ways
        ]
        terms = Terms(count, 0.05, 1000, "exact_match", True, "USD")
        assert conclude(rows, "exact_match", terms)[0].verdict == verdict


def test_the_mean_of_answers_that_are_all_right_has_an_interval() -> None:
    ways = [measured("base", {"exact_match": np.zeros(40)})]
    low, high = qualities(ways, questions([1] * 40), seed=0)["base"]["exact_match"].interval
    assert low == 0 and 0.05 < high < 0.15
