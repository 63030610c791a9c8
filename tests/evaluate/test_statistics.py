"""Intervals and verdicts: known answers, honest coverage, direction of each metric."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lorakit.evaluate import statistics
from lorakit.evaluate.judge import Scores, judge
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import Comparison, central_interval, resampled_means
from lorakit.evaluate.summary import summary
from lorakit.train.losses import ExampleLosses


def _losses(mean: np.ndarray, weight: np.ndarray) -> ExampleLosses:
    return ExampleLosses(mean * weight, weight)


def _said(result: SetResult) -> str:
    return "\n".join(summary({"set": result}))


def _paired(
    seed: int, *, effect: float, num_examples: int = 200
) -> tuple[ExampleLosses, ExampleLosses]:
    generator = np.random.default_rng(seed)
    weight = generator.integers(5, 200, num_examples).astype(float)
    base = generator.gamma(4.0, 0.5, num_examples)
    noise = generator.normal(0, 0.1, num_examples)
    return _losses(base, weight), _losses(base + noise + effect, weight)


def test_resampled_means_are_centred_on_the_weighted_mean_and_spread_like_it() -> None:
    base, tuned = _paired(0, effect=0.0)
    means = resampled_means(np.stack([base.nll, tuned.nll]), base.weight)
    assert means.shape == (2, statistics.NUM_RESAMPLES)
    standard_error = means[0].std()
    assert abs(means[0].mean() - base.mean) < 0.1 * standard_error
    residuals = (base.nll - base.mean * base.weight) / base.weight.mean()
    assert standard_error == pytest.approx(residuals.std() / np.sqrt(len(residuals)), rel=0.1)


def test_a_resample_is_a_half_of_the_examples_the_same_for_all_quantities() -> None:
    values = np.stack([np.arange(8.0), 10 * np.arange(8.0)])
    means = resampled_means(values, np.ones(8))
    np.testing.assert_allclose(means[1], 10 * means[0], rtol=1e-12)
    possible = {np.mean([i for i in range(8) if mask >> i & 1]) for mask in range(1, 256)}
    assert {round(value, 9) for value in means[0]} == {round(value, 9) for value in possible}
    assert resampled_means(np.array([[5.0]]), np.array([2.0])).tolist()[0][0] == 2.5


@pytest.mark.parametrize(
    ("gains", "losses", "sees"),
    # McNemar's mid-p at 5 %: one-sided (below + half of equal) of a fair coin under 2.5 %.
    [(4, 0, False), (5, 0, True), (6, 1, False), (7, 1, True), (9, 3, False), (10, 2, True)],
)
def test_scores_of_0_and_1_are_judged_by_the_ones_that_differ(
    gains: int, losses: int, sees: bool
) -> None:
    differences = np.zeros((1, 100))
    differences[0, :gains] = 1
    differences[0, gains : gains + losses] = -1
    (samples,) = resampled_means(differences, np.ones(100))
    low, high = central_interval(samples)
    assert (low > 0) == sees
    assert low <= (gains - losses) / 100 <= high


def test_same_seed_same_interval_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = _paired(1, effect=0.05)
    first = judge(base, tuned, metrics=["loss"], primary="loss", margin=None)
    again = judge(base, tuned, metrics=["loss"], primary="loss", margin=None)
    assert first == again
    monkeypatch.setattr(statistics, "_DRAWN_AT_ONCE", 7 * len(base.nll))
    chunked = judge(base, tuned, metrics=["loss"], primary="loss", margin=None)
    assert chunked.verdict == first.verdict
    # The same draws; a product of another size may add them up in another order (AVX-512 does).
    interval = first.metrics["loss"].interval
    assert chunked.metrics["loss"].interval == pytest.approx(interval, rel=1e-12)


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
        assert ("too few examples to tell" in _said(result)) == few
        assert ("no difference" in _said(result)) is False
        assert result.to_json()["verdict"] == result.verdict


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
    assert "perplexity is beyond what a number can hold" in _said(result)
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


def _scores(base: list[float], tuned: list[float], *, higher_is_better: bool = True) -> Scores:
    return Scores(np.array(base), np.array(tuned), higher_is_better)


@pytest.mark.parametrize(
    ("base", "tuned", "interval", "expected"),
    [
        (0.0, 1.0, (0.77, 1), "better"),  # 30 examples, not all there are
        (1.0, 0.0, (-1, -0.77), "worse"),
        (0.3, 0.3, (0, 0), "no difference"),
    ],
)
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_scores_decide_in_their_own_direction(
    base: float,
    tuned: float,
    interval: tuple[float, float],
    expected: str,
    higher_is_better: bool,
) -> None:
    losses, _ = _paired(5, effect=0.0)
    result = judge(
        losses,
        losses,
        metrics=["loss", "score"],
        primary="score",
        margin=None,
        scores={"score": _scores([base] * 30, [tuned] * 30, higher_is_better=higher_is_better)},
    )
    opposite = {"better": "worse", "worse": "better", "no difference": "no difference"}
    assert result.verdict == (expected if higher_is_better else opposite[expected])
    assert result.metrics["score"].interval == pytest.approx(interval, abs=0.01)
    assert result.metrics["loss"].interval == (0, 0)
    written = result.metrics["score"].to_json()
    assert (written["examples"], written["higher_is_better"]) == (30, higher_is_better)
    assert result.metrics["loss"].to_json()["examples"] == 200


def test_equal_losses_differ_by_exactly_nothing() -> None:
    losses, _ = _paired(6, effect=0.0)
    result = judge(losses, losses, metrics=["perplexity"], primary="perplexity", margin=None)
    assert result.verdict == "no difference"
    assert result.metrics["perplexity"].interval == (0, 0)


def test_the_verdict_needs_enough_answers_whatever_the_number_of_losses() -> None:
    base, tuned = _paired(7, effect=-1.0)
    few = judge(
        base,
        tuned,
        metrics=["loss"],
        primary="score",
        margin=None,
        scores={"score": _scores([0.0] * 19, [1.0] * 19)},
    )
    assert few.verdict == "no difference"
    assert any("too few examples" in note for note in few.notes)


@pytest.mark.parametrize(
    ("drop", "margin", "verdict", "says"),
    [
        (0.02, 0.1, "no difference", "the margin was kept: score is worse by at most 0.0"),
        (0.3, 0.1, "worse", "the margin was not kept: score is worse by 0.2"),
        (0.1, 0.1, "worse", "not shown to be kept: score may be worse by up to 0.1"),
        (-0.3, 0.1, "better", "the margin was kept: score is not worse"),
    ],
)
def test_retention_keeps_its_margin_in_the_unit_of_a_score(
    drop: float, margin: float, verdict: str, says: str
) -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(0.4, 0.6, 100)
    tuned = base - drop + generator.normal(0, 0.05, 100)
    losses, _ = _paired(8, effect=0.0, num_examples=100)
    result = judge(
        losses,
        losses,
        metrics=["loss"],
        primary="score",
        margin=margin,
        scores={"score": Scores(base, tuned)},
    )
    assert result.verdict == verdict
    assert says in result.notes[0]


def test_an_over_trained_run_is_called_out() -> None:
    """In-domain better, retention worse: both are said, and which examples were forgotten."""
    learned = judge(*_paired(9, effect=-0.5), metrics=["loss"], primary="loss", margin=None)
    lost = judge(*_paired(10, effect=0.5), metrics=["loss"], primary="loss", margin=0.05)
    shown = "\n".join(summary({"in_domain": learned, "retention": lost}))
    assert "in_domain: better by loss (200 examples)" in shown
    assert "retention: worse by loss (200 examples)" in shown
    assert "the margin was not kept" in shown


def test_what_was_lost_points_up() -> None:
    rises = Comparison(1.0, 2.0, 1.0, (0.5, 1.5), 20)
    falls = Comparison(2.0, 1.0, -1.0, (-1.5, -0.5), 20, higher_is_better=True)
    assert rises.losses == falls.losses == (0.5, 1.5)
