"""p-values, McNemar and Holm: by exact arithmetic, and as the intervals say."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.evaluate.correction import corrected
from lorakit.evaluate.judge import Scores, judge
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import (
    central_interval,
    holm,
    mcnemar,
    p_value,
    p_value_of_margin,
    resampled_means,
)
from lorakit.train.losses import ExampleLosses


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (3, 3), (9, 2), (40, 61)])
def test_mcnemar_is_the_binomial_test_in_whole_numbers(gained: int, lost: int) -> None:
    base = np.array([0.0] * gained + [1.0] * lost + [1.0, 0.0] * 5)
    tuned = np.array([1.0] * gained + [0.0] * lost + [1.0, 0.0] * 5)
    found = mcnemar(base, tuned)
    n, few = gained + lost, min(gained, lost)
    odds = [Fraction(comb(n, k), 2**n) for k in range(n + 1)]
    tail, at = sum(odds[: few + 1]), odds[few]
    assert (found.gained, found.lost) == (gained, lost)
    assert found.exact == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    assert found.mid_p == pytest.approx(float(min(Fraction(1), 2 * tail - at)), rel=1e-12)


def test_mcnemar_of_published_pairs() -> None:
    """Fagerland, Lydersen and Laake 2013, table 2 (airway hyper-responsiveness before and after
    stem cell transplantation): 1 and 7 pairs that differ; exact 0.0703, mid-p 0.0391."""
    found = mcnemar(np.array([1.0] + [0.0] * 7), np.array([0.0] + [1.0] * 7))
    assert (round(found.exact, 4), round(found.mid_p, 4)) == (0.0703, 0.0391)


def test_mcnemar_of_many_pairs_is_a_number() -> None:
    found = mcnemar(np.zeros(5000), np.r_[np.ones(2600), np.zeros(2400)])
    assert 0 < found.exact < 1e-300 or found.exact == 0.0
    both = mcnemar(np.r_[np.zeros(1050), np.ones(950)], np.r_[np.ones(1050), np.zeros(950)])
    normal = (1050 - 950) / np.sqrt(2000)  # 2.24 standard errors: 0.0253 of a normal distribution
    assert normal == pytest.approx(2.236, abs=1e-3) and 0.023 < both.mid_p < 0.028


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(9, 15))
def test_resampling_zeros_and_ones_tends_to_mcnemar(gained: int, lost: int, same: int) -> None:
    differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * same)
    (samples,) = resampled_means(differences[None], np.ones(len(differences)))
    expected = mcnemar(np.clip(-differences, 0, 1), np.clip(differences, 0, 1)).mid_p
    assert p_value(samples) == pytest.approx(expected, abs=0.03)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(-0.6, 0.6))
def test_a_p_value_says_what_the_interval_says(seed: int, effect: float) -> None:
    values = np.random.default_rng(seed).normal(effect, 1, 30)
    (samples,) = resampled_means(values[None], np.ones(30), seed=seed)
    low, high = central_interval(samples)
    p = p_value(samples)
    if abs(p - 0.05) > 1e-3:
        assert (p < 0.05) == (low > 0 or high < 0)
    for margin in (0.0, 0.3):
        p = p_value_of_margin(samples, margin)
        if abs(p - 0.05) > 1e-3:
            assert (p < 0.05) == (high < margin or low > margin)


def test_no_p_value_is_below_what_resamples_show() -> None:
    assert p_value(np.full(10_000, 3.0)) == 1e-4
    assert p_value(np.zeros(10_000)) == 1.0
    assert p_value_of_margin(np.full(10_000, 3.0), 0.5) == 1e-4
    assert p_value_of_margin(np.full(10_000, 0.5), 0.5) == 1.0


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # Holm 1979: the smallest times n, the next times n - 1, never falling, at most 1.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holm_by_hand(given_: list[float], expected: list[float]) -> None:
    assert holm(given_) == pytest.approx(expected)


def test_holm_rejects_what_the_closed_test_of_bonferroni_rejects() -> None:
    """Holm is the closure of Bonferroni's test: a hypothesis falls when every group of hypotheses
    that holds it has a p-value of at most alpha over its size."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.uniform(0, 0.12, 4)
        for i, value in enumerate(holm(p.tolist())):
            groups = [g for g in product((0, 1), repeat=4) if g[i]]
            closed = all(min(p[k] for k in range(4) if g[k]) <= 0.05 / sum(g) for g in groups)
            assert (value <= 0.05) == closed


def losses(difference: float, *, count: int = 60, seed: int = 0) -> tuple[ExampleLosses, ...]:
    generator = np.random.default_rng(seed)
    weight = np.full(count, 10.0)
    base = generator.gamma(4, 0.5, count)
    tuned = base + difference + generator.normal(0, 0.3, count)
    return ExampleLosses(base * weight, weight), ExampleLosses(tuned * weight, weight)


def judged(difference: float, margin: float | None = None, **more: int) -> SetResult:
    return judge(*losses(difference, **more), metrics=["loss"], primary="loss", margin=margin)


def test_a_verdict_that_many_others_surround_may_not_survive() -> None:
    weak = next(
        one
        for one in (judged(-0.09, seed=seed) for seed in range(50))
        if one.verdict == "better" and one.p_value is not None and 0.02 < one.p_value < 0.04
    )
    alone = corrected({"in_domain": weak})["in_domain"]
    assert alone.survives and alone.p_value_corrected == alone.p_value and not alone.notes
    many = corrected({"in_domain": weak} | {f"other{n}": judged(0.0, seed=n) for n in range(3)})
    told = many["in_domain"]
    assert told.verdict == "better" and told.survives is False and told.num_tests == 4
    assert told.p_value_corrected == pytest.approx(min(1, 4 * (weak.p_value or 0)), rel=0.5)
    assert told.notes[-1].startswith("does not survive the correction for 4 verdicts read together")
    assert told.to_json()["survives_correction"] is False
    strong = corrected({"in_domain": judged(-1.0), "out_of_domain": judged(0.0)})
    assert strong["in_domain"].survives is True
    assert strong["out_of_domain"].survives is None  # it claims nothing


def test_one_verdict_alone_is_not_corrected() -> None:
    """The interval may say what the p-value just does not, as McNemar's test may."""
    alone = corrected({"in_domain": replace(judged(-1.0), p_value=0.06)})["in_domain"]
    assert alone.survives is False and not alone.notes
    both = corrected({"in_domain": replace(judged(-1.0), p_value=0.06), "more": judged(0.0)})
    assert "correction for 2 verdicts" in both["in_domain"].notes[-1]


def survives(one: SetResult) -> bool | None:
    return corrected({"retention": one})["retention"].survives


def test_retention_claims_that_the_margin_was_kept_or_that_more_was_lost() -> None:
    kept, lost = judged(0.0, margin=0.5), judged(1.0, margin=0.05)
    assert kept.verdict == "no difference" and kept.p_value is not None and kept.p_value < 0.01
    assert survives(kept) is True
    assert lost.verdict == "worse" and lost.p_value is not None and lost.p_value < 0.01
    assert survives(lost) is True
    unshown = judged(0.1, margin=0.1)
    assert unshown.verdict == "worse" and unshown.p_value is not None and unshown.p_value > 0.05
    assert survives(unshown) is None  # neither is shown


def test_retention_that_is_better_claims_a_difference() -> None:
    better = judged(-0.1, margin=2.0)
    assert better.verdict == "better" and better.p_value == better.metrics["loss"].p_value
    many = {"retention": better} | {f"other{n}": judged(0.0, seed=n) for n in range(3)}
    assert corrected(many)["retention"].num_tests == 4


def test_too_few_examples_have_no_p_value() -> None:
    few = judged(-1.0, count=10)
    assert few.p_value is None
    told = corrected({"few": few, "many": judged(-1.0)})
    assert told["few"].p_value_corrected is None and told["many"].num_tests == 1


def test_scores_of_yes_and_no_are_tested_by_mcnemar() -> None:
    base, tuned = np.zeros(30), np.r_[np.ones(9), np.zeros(21)]
    base[29] = 1
    result = judge(
        *losses(0.0, count=30),
        metrics=[],
        primary="exact_match",
        margin=None,
        scores={
            "exact_match": Scores(base, tuned),
            "token_f1": Scores(base * 0.5, tuned),
        },
    )
    told = result.to_json()["metrics"]
    assert isinstance(told, dict)
    assert told["exact_match"]["mcnemar"]["gained"] == 9
    assert told["exact_match"]["mcnemar"]["lost"] == 1
    assert told["exact_match"]["p_value"] == told["exact_match"]["mcnemar"]["mid_p"]
    assert "mcnemar" not in told["token_f1"] and told["token_f1"]["p_value"] is not None
    assert result.p_value == told["exact_match"]["p_value"]
    assert (result.p_value < 0.05) == (result.verdict == "better")


def test_what_is_not_finite_has_no_p_value() -> None:
    base, tuned = losses(0.0)
    broken = replace(tuned, nll=np.where(np.arange(60) == 3, np.nan, tuned.nll))
    result = judge(base, broken, metrics=[], primary="loss", margin=None)
    assert result.p_value is None and result.metrics["loss"].p_value is None
