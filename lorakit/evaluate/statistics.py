"""Paired bootstrap intervals and the verdict that rests on them.

Base and tuned answer the same examples, so examples are resampled once for both (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: percentile intervals).
E examples, R resamples, K quantities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["better", "no difference", "worse"]

CONFIDENCE = 0.95
# Percentile intervals of few examples are too narrow: of normal means, "95 %" covers 51 % with 2
# examples, 84 % with 5, 90 % with 10 and 92 % with 20; one example resampled has no width at all.
# Below this number nothing is concluded.
MIN_EXAMPLES = 20
NUM_RESAMPLES = 10_000
_PICKS_AT_ONCE = 4_000_000  # indices drawn at a time: 32 MB, whatever the number of examples


@dataclass(frozen=True)
class Comparison:
    """One metric of base and tuned, and what the data say about their difference."""

    base: float
    tuned: float
    difference: float  # tuned - base
    interval: tuple[float, float]  # of the difference, at CONFIDENCE

    def to_json(self) -> dict[str, object]:
        """The shape of `evaluation.json`; null where a number is not finite."""
        return {
            "base": _finite_or_none(self.base),
            "tuned": _finite_or_none(self.tuned),
            "difference": _finite_or_none(self.difference),
            "interval": [_finite_or_none(bound) for bound in self.interval],
        }

    @property
    def is_finite(self) -> bool:
        """Whether every number is one that JSON can hold."""
        return bool(np.isfinite([self.base, self.tuned, self.difference, *self.interval]).all())


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def resampled_means(
    values_KE: np.ndarray,
    weights_E: np.ndarray,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Weighted means of K paired quantities over resamples of the same examples.

    Args:
        values_KE: float64 (K, E), per example sums, such as the NLL of all its trained tokens.
        weights_E: float64 (E,), what the sums are divided by, such as its number of trained tokens.
        num_resamples: R.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        float64 (K, R): sum of values over sum of weights in each resample.
    """
    num_examples = len(weights_E)
    generator = np.random.Generator(np.random.Philox(seed))
    at_once = max(1, _PICKS_AT_ONCE // num_examples)
    means = []
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        picks_RE = generator.integers(0, num_examples, size=(rows, num_examples))
        means.append(values_KE[:, picks_RE].sum(axis=2) / weights_E[picks_RE].sum(axis=1))
    return np.concatenate(means, axis=1)


def percentile_interval(
    samples_R: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The central interval that holds `confidence` of the samples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples_R, [tail, 1 - tail])
    return float(low), float(high)


def verdict_of_change(interval: tuple[float, float], *, lower_is_better: bool) -> Verdict:
    """Better or worse only when the interval of the difference excludes zero."""
    low, high = interval if lower_is_better else (-interval[1], -interval[0])
    if high < 0:
        return "better"
    return "worse" if low > 0 else "no difference"


def verdict_of_retention(
    interval: tuple[float, float], margin: float, *, lower_is_better: bool
) -> Verdict:
    """Non-inferiority: worse unless the interval excludes a loss of more than `margin`.

    A set too small to exclude it counts as worse: retention has to be shown, not assumed.
    """
    _, high = interval if lower_is_better else (-interval[1], -interval[0])
    if high < 0:
        return "better"
    return "no difference" if high <= margin else "worse"
