"""Intervals and verdicts: known answers, honest coverage, direction of each metric."""

from __future__ import annotations

import numpy as np
import pytest

from lorakit.evaluate import statistics
from lorakit.evaluate.compare import judge
from lorakit.train.losses import ExampleLosses


def _losses(mean: np.ndarray, weight: np.ndarray) -> ExampleLosses:
    return ExampleLosses(mean * weight, weight)


def _paired(
    seed: int, *, effect: float, num_examples: int = 200
) -> tuple[ExampleLosses, ExampleLosses]:
    generator = np.random.default_rng(seed)
    weight = generator.integers(5, 200, num_examples).astype(float)
    base = generator.gamma(4.0, 0.5, num_examples)
    noise = generator.normal(0, 0.1, num_examples)
    return _losses(base, weight), _losses(base + noise + effect, weight)


def test_resampled_means_are_centred_on_the_weighted_mean() -> None:
    base, tuned = _paired(0, effect=0.0)
    means = statistics.resampled_means(np.stack([base.nll, tuned.nll]), base.weight)
    assert means.shape == (2, statistics.NUM_RESAMPLES)
    standard_error = means[0].std()
    assert abs(means[0].mean() - base.mean) < 0.1 * standard_error


def test_same_seed_same_interval_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = _paired(1, effect=0.05)
    first = judge(base, tuned, metrics=["loss"], primary="loss", margin=None)
    again = judge(base, tuned, metrics=["loss"], primary="loss", margin=None)
    assert first == again
    monkeypatch.setattr(statistics, "_PICKS_AT_ONCE", 7 * len(base.nll))
    assert judge(base, tuned, metrics=["loss"], primary="loss", margin=None) == first


def test_no_effect_is_called_a_change_in_three_to_seven_percent() -> None:
    """1,000 runs without effect: 5 % expected, the binomial 3-sigma band is 2.9 to 7.1 %."""
    false = 0
    for seed in range(1000):
        base, tuned = _paired(seed, effect=0.0)
        values = np.stack([base.nll, tuned.nll])
        means = statistics.resampled_means(values, base.weight, num_resamples=1000)
        low, high = statistics.percentile_interval(means[1] - means[0])
        false += not low <= 0 <= high
    assert 30 <= false <= 70


@pytest.mark.parametrize(
    "effect, expected", [(-0.1, "better"), (0.1, "worse"), (0.0, "no difference")]
)
@pytest.mark.parametrize("primary", ["loss", "perplexity"])
def test_a_clear_effect_is_found(effect: float, expected: str, primary: str) -> None:
    base, tuned = _paired(2, effect=effect)
    result = judge(base, tuned, metrics=["loss", "perplexity"], primary=primary, margin=None)
    assert result.verdict == expected
    for change in result.metrics.values():
        assert change.interval[0] <= change.difference <= change.interval[1]
    assert result.metrics["perplexity"].base == pytest.approx(np.exp(result.metrics["loss"].base))


@pytest.mark.parametrize(
    "effect, margin, expected",
    [
        (0.1, 0.2, "no difference"),
        (0.1, 0.05, "worse"),
        (-0.1, 0.05, "better"),
        (0.0, 0.001, "worse"),
    ],
)
def test_retention_must_be_shown_within_the_margin(
    effect: float, margin: float, expected: str
) -> None:
    base, tuned = _paired(3, effect=effect)
    result = judge(base, tuned, metrics=["loss"], primary="loss", margin=margin)
    assert result.verdict == expected
