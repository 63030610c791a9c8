"""Intervals and verdicts: known answers, honest coverage, direction of each metric."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lorakit.data.examples import Example, examples_in_memory
from lorakit.evaluate import statistics
from lorakit.evaluate.compare import judge, sample
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


@pytest.mark.parametrize("margin", [None, 0.05])
@pytest.mark.parametrize("effect", [-1.0, 1.0])
def test_few_examples_show_nothing(effect: float, margin: float | None) -> None:
    for num_examples in (1, 2, statistics.MIN_EXAMPLES - 1, statistics.MIN_EXAMPLES):
        base, tuned = _paired(4, effect=effect, num_examples=num_examples)
        result = judge(base, tuned, metrics=["loss"], primary="loss", margin=margin)
        few = num_examples < statistics.MIN_EXAMPLES
        assert (result.verdict == "no difference") == few
        assert ("too few examples to tell" in result.in_words("set")) == few


@pytest.mark.parametrize("margin", [None, 0.05])
@pytest.mark.parametrize("primary", ["loss", "perplexity"])
@pytest.mark.parametrize("effect, expected", [(-1.0, "better"), (1.0, "worse")])
def test_a_perplexity_past_float64_is_null_and_the_loss_decides(
    effect: float, expected: str, primary: str, margin: float | None
) -> None:
    weight = np.full(40, 3.0)
    base, tuned = (
        _losses(np.full(40, 5000.0), weight),
        _losses(np.full(40, 5000.0 + effect), weight),
    )
    result = judge(base, tuned, metrics=["loss", "perplexity"], primary=primary, margin=margin)
    assert result.verdict == expected
    assert "perplexity is beyond what a number can hold" in result.in_words("set")
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["metrics"]["perplexity"]["base"] is None
    assert written["metrics"]["loss"]["base"] == 5000.0


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_a_loss_that_is_no_number_any_more_is_worse(broken: float) -> None:
    weight = np.ones(40)
    result = judge(
        _losses(np.ones(40), weight),
        _losses(np.full(40, broken), weight),
        metrics=["loss"],
        primary="loss",
        margin=None,
    )
    assert result.verdict == "worse"
    json.dumps(result.to_json(), allow_nan=False)


def test_a_sample_is_seeded_in_order_and_from_everywhere() -> None:
    weights = np.array([0, 1], dtype=np.float32)
    rows = [Example(np.array([1, n], dtype=np.int32), weights) for n in range(200)]
    examples = examples_in_memory(rows)
    assert sample(examples, None, seed=0) is examples
    assert sample(examples, 200, seed=0) is examples
    drawn = [sample(examples, 30, seed=seed) for seed in (0, 0, 1)]
    ids = [[int(one[index].input_ids[1]) for index in range(len(one))] for one in drawn]
    assert ids[0] == ids[1] == sorted(set(ids[0]))
    assert ids[0] != ids[2]
    assert max(ids[0]) >= 100  # not the first rows: all of them in one half has odds of 2^-30
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint
    assert len(drawn[0].lengths) == len(drawn[0].trained_lengths) == 30
