"""pass@k and majority@k against counting every choice, and what holds of them however many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import comb
from statistics import fmean

import numpy as np
import pytest

from lorakit.evaluate.pass_at_k import majority_at_k, pass_at_k
from lorakit.evaluate.statistics import interval_of_shares
from tests.evaluate.test_honesty import share_called_a_change

Votes = Sequence[int | None]


def counted_pass(scores: Sequence[float], k: int) -> float:
    return fmean(max(chosen) for chosen in combinations(scores, k))


def counted_majority(scores: Sequence[float], votes: Votes, k: int) -> float:
    """Of every choice the majority; of tied answers each in turn, of one answer each text."""
    found = []
    for chosen in combinations(range(len(scores)), k):
        counts = Counter(votes[place] for place in chosen if votes[place] is not None)
        most = max(counts.values(), default=0)
        tied = [answer for answer, count in counts.items() if count == most]
        worth = [
            fmean(scores[place] for place in range(len(scores)) if votes[place] == answer)
            for answer in tied
        ]
        found.append(fmean(worth) if worth else 0.0)
    return fmean(found)


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_pass_at_k_is_the_share_of_all_choices(num_samples: int) -> None:
    for right in range(num_samples + 1):
        scores = [1.0] * right + [0.0] * (num_samples - right)
        for k in range(1, num_samples + 1):
            expected = counted_pass(scores, k)
            assert pass_at_k(num_samples, right, k) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.9, 1.0])
def test_pass_at_k_has_no_bias(share: float) -> None:
    """Over all that n answers may be, its mean is what k answers truly are; the plain share raised
    to k is not."""
    n = 10
    odds = [comb(n, c) * share**c * (1 - share) ** (n - c) for c in range(n + 1)]
    for k in range(1, n + 1):
        truth = 1 - (1 - share) ** k
        mean = sum(p * pass_at_k(n, c, k) for c, p in enumerate(odds))
        assert mean == pytest.approx(truth, abs=1e-14)
        plain = sum(p * (1 - (1 - c / n) ** k) for c, p in enumerate(odds))
        if k > 1 and 0 < share < 1:
            assert plain < truth - 1e-6


def test_many_answers_are_counted_exactly() -> None:
    for n, c, k in ((1000, 3, 500), (1000, 999, 1), (1000, 400, 7), (731, 1, 730)):
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-15)


@pytest.mark.parametrize("seed", range(40))
def test_majority_at_k_is_the_share_of_all_choices(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 9))
    votes = [None if v < 0 else int(v) for v in generator.integers(-1, 4, n)]
    scores = [0.0 if v is None else float(v == 1) for v in votes]
    by_chance = generator.integers(0, 2, n).tolist()
    odd = [0.0 if v is None else float(s) for v, s in zip(votes, by_chance, strict=True)]
    for k in range(1, n + 1):
        for worth in (scores, odd):
            expected = counted_majority(worth, votes, k)
            assert majority_at_k(worth, votes, k) == pytest.approx(expected, abs=1e-14)


def test_ties_are_shared_and_silence_is_no_vote() -> None:
    assert majority_at_k([1, 1, 0, 0], [7, 7, 2, 2], 4) == 0.5
    assert majority_at_k([1, 0, 0], [0, 1, 2], 3) == pytest.approx(1 / 3)
    assert majority_at_k([1, 0, 0, 0], [0, None, None, None], 4) == 1
    assert majority_at_k([0, 0, 0], [None, None, None], 2) == 0
    assert majority_at_k([1, 0, 0, 1], [0, 1, 1, 2], 4) == 0


@pytest.mark.parametrize(("n", "k"), [(1, 1), (9, 4), (64, 64), (64, 63), (200, 31), (1000, 40)])
def test_somebody_wins_wherever_somebody_votes(n: int, k: int) -> None:
    """Where every answer is right, the odds of all of them winning add up to those of a vote."""
    votes: Votes = [None if place % 5 == 0 else place % 13 for place in range(n)]
    silent = sum(vote is None for vote in votes)
    scores = [float(vote is not None) for vote in votes]
    expected = 1 - comb(silent, k) / comb(n, k)
    assert majority_at_k(scores, votes, k) == pytest.approx(expected, rel=1e-12)


def test_one_answer_is_its_own_majority_and_the_order_is_nothing() -> None:
    generator = np.random.default_rng(3)
    votes = generator.integers(0, 6, 30)
    scores = (votes < 2).astype(float)
    assert majority_at_k(scores.tolist(), votes.tolist(), 1) == pytest.approx(scores.mean())
    assert pass_at_k(30, int(scores.sum()), 1) == pytest.approx(scores.mean())
    order = generator.permutation(30)
    for k in (2, 5, 29, 30):
        found = majority_at_k(scores.tolist(), votes.tolist(), k)
        other = majority_at_k(scores[order].tolist(), votes[order].tolist(), k)
        assert found == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_more_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="possible: 1 to 3"):
        pass_at_k(3, 1, k)
    with pytest.raises(ValueError, match="possible: 1 to 3"):
        majority_at_k([1.0, 0.0, 0.0], [0, 1, 2], k)


def simulated(
    questions: int, alike: float, mean: float, num_samples: int, k: int, runs: int
) -> tuple[np.ndarray, float]:
    """float64 (runs, questions) of pass@k, and what it is over all questions there could be.

    Args:
        alike: how sure questions are of their outcome: 0 all are as hard, large ones are right
            always or never.
    """
    generator = np.random.default_rng(questions)
    if alike:
        odds = generator.beta(mean / alike, (1 - mean) / alike, (runs, questions))
        many = generator.beta(mean / alike, (1 - mean) / alike, 400_000)
    else:
        odds, many = np.full((runs, questions), mean), np.full(1, mean)
    right = generator.binomial(num_samples, odds)
    table = np.array([pass_at_k(num_samples, c, k) for c in range(num_samples + 1)])
    return table[right], float(np.mean(1 - (1 - many) ** k))


@pytest.mark.parametrize("questions", [20, 100])
@pytest.mark.parametrize("alike", [0.0, 0.5, 5.0])
@pytest.mark.parametrize(("mean", "k"), [(0.05, 1), (0.4, 1), (0.4, 8), (0.9, 4)])
def test_intervals_hold_what_other_questions_would_show(
    questions: int, alike: float, mean: float, k: int
) -> None:
    """In 95 % of the runs and more, but for chance: questions are new in each, and answers."""
    shares, truth = simulated(questions, alike, mean, num_samples=8, k=k, runs=1000)
    bounds = np.array([interval_of_shares(one) for one in shares])
    held = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
    assert held >= 0.93  # of 1,000 runs; 95 % less three standard deviations


@pytest.mark.parametrize("k", [1, 4])
def test_two_models_that_are_as_good_differ_in_three_to_seven_percent(k: int) -> None:
    """Each draws its own answers to the same questions."""
    generator = np.random.default_rng(k)
    odds_E = generator.beta(0.5, 0.5, 100)
    right = generator.binomial(8, odds_E, (2, 2000, 100))
    table = np.array([pass_at_k(8, c, k) for c in range(9)])
    base_NE, tuned_NE = table[right]
    assert 0.03 <= share_called_a_change(tuned_NE - base_NE, np.ones(100)) <= 0.07


def test_an_interval_has_a_width_where_all_are_right_or_none_is() -> None:
    low, high = interval_of_shares(np.zeros(100))
    assert low == 0 and 0.03 < high < 0.05  # the rule of three says 0.03
    assert interval_of_shares(np.ones(100)) == pytest.approx((1 - high, 1))
    # Questions that are right always or never tell the least, as in a plain share.
    low, high = interval_of_shares(np.repeat([0.0, 1.0], 50))
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 104**0.5, rel=1e-3)
    low, high = interval_of_shares(np.full(100, 0.5))
    assert 0 < high - low < 0.04
