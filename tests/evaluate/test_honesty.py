"""Intervals are honest: where nothing changed, a change is seen in 5 % of the runs.

What "nothing changed" means: (i) base and tuned are swapped at random example by example, (ii) both
are the same model, sampled with two seeds. Scores are those of the real scorers on made-up answers.
Runs are simulated with fixed seeds; 2,000 a case, so that 3 to 7 % is four standard deviations.
"""

from __future__ import annotations

import numpy as np
import pytest

from lorakit.evaluate.statistics import central_interval, resampled_means
from tests.evaluate import toy_answers

NUM_RUNS = 2000
NUM_RESAMPLES = 800
SIZES = (20, 100, 300)
# Below this many examples on which base and tuned differ, 0/1 scores say too seldom that they do:
# with 5 of them, all on one side has odds of 1 in 16.
FEW_THAT_DIFFER = 10


def share_called_a_change(values_NE: np.ndarray, weight_E: np.ndarray) -> float:
    """The share of N runs whose interval excludes zero."""
    samples_NR = resampled_means(values_NE, weight_E, num_resamples=NUM_RESAMPLES)
    intervals = np.array([central_interval(samples_R) for samples_R in samples_NR])
    return float(((intervals[:, 0] > 0) | (intervals[:, 1] < 0)).mean())


def two_seeds(scores_ES: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(N, E) differences between two answers of the same model to each example."""
    count, samples = scores_ES.shape
    first = generator.integers(0, samples, (NUM_RUNS, count))
    second = (first + generator.integers(1, samples, first.shape)) % samples
    return scores_ES[np.arange(count), first] - scores_ES[np.arange(count), second]


def swapped(
    base_ES: np.ndarray, tuned_ES: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """(N, E) differences between two models whose names are swapped at random."""
    count, samples = base_ES.shape
    picks = generator.integers(0, samples, (2, NUM_RUNS, count))
    rows = np.arange(count)
    differences = tuned_ES[rows, picks[0]] - base_ES[rows, picks[1]]
    return differences * generator.choice([-1.0, 1.0], differences.shape)


@pytest.mark.parametrize("num_examples", SIZES)
@pytest.mark.parametrize("name", toy_answers.SCORERS)
def test_no_effect_on_scores_is_called_a_change_in_three_to_seven_percent(
    name: str, num_examples: int
) -> None:
    weak, strong = (toy_answers.scores(name, skill, num_examples) for skill in (1.0, 3.0))
    assert strong.mean() >= weak.mean()
    generator = np.random.default_rng(num_examples)
    for differences in (two_seeds(weak, generator), swapped(weak, strong, generator)):
        share = share_called_a_change(differences, np.ones(num_examples))
        if (differences != 0).sum(axis=1).mean() < FEW_THAT_DIFFER:
            assert share <= 0.07
        else:
            assert 0.03 <= share <= 0.07


@pytest.mark.parametrize("num_examples", SIZES)
def test_no_effect_on_losses_is_called_a_change_in_three_to_seven_percent(
    num_examples: int,
) -> None:
    """Long and short answers, hard and easy ones; outliers that a t distribution makes."""
    generator = np.random.default_rng(num_examples)
    weight_E = np.exp(generator.normal(4, 1, num_examples)).round() + 1
    base_E = generator.gamma(4.0, 0.5, num_examples)
    shape = (NUM_RUNS, num_examples)
    two_trainings = 0.1 * base_E * generator.standard_t(3, shape)
    better = 0.2 * base_E + 0.1 * generator.normal(size=shape)
    permuted = better * generator.choice([-1.0, 1.0], shape)
    for change in (two_trainings, permuted):
        assert 0.03 <= share_called_a_change(change * weight_E, weight_E) <= 0.07


def test_an_effect_of_two_standard_errors_is_found_half_of_the_time() -> None:
    """Honest is not blind: power at 1.96 standard errors is 50 %."""
    generator = np.random.default_rng(0)
    differences = generator.normal(0.196, 1, (NUM_RUNS, 100))
    assert 0.45 < share_called_a_change(differences, np.ones(100)) < 0.55


def test_differences_that_are_not_symmetric_cost_a_known_part_of_the_coverage() -> None:
    """What the comment at MIN_EXAMPLES says."""
    generator = np.random.default_rng(0)
    for num_examples, most in ((20, 0.15), (100, 0.1)):
        skewed = np.exp(generator.normal(size=(NUM_RUNS, num_examples))) - np.exp(0.5)
        assert 0.05 < share_called_a_change(skewed, np.ones(num_examples)) < most


@pytest.mark.slow
@pytest.mark.parametrize(("num_examples", "num_runs"), [(20, 1000), (100, 300)])
def test_another_style_without_content_is_called_a_change_of_content_in_five_percent(
    num_examples: int, num_runs: int
) -> None:
    """A run on shuffled answers: tuned writes notes of other patients, base writes prose. Answers
    share their references, new ones in every run; that does not make the intervals too narrow."""
    generator = np.random.default_rng(0)
    runs = [toy_answers.changes_of_style(num_examples, generator) for _ in range(num_runs)]
    share = share_called_a_change(np.stack(runs), np.ones(num_examples))
    noise = 3 * np.sqrt(0.05 * 0.95 / num_runs)
    assert share <= 0.05 + noise


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.3])
def test_identical_differences_have_an_interval_without_width(value: float) -> None:
    (samples,) = resampled_means(np.full((1, 50), value), np.ones(50))
    low, high = central_interval(samples)
    assert low == pytest.approx(value) == high
    assert (low == 0 == high) == (value == 0)
