"""Calibration: whether a model that is 80 % sure of a token is right in 80 % of such places.

At each trained position the model names its most probable token (`confidence` is that probability)
and the token that stands there says whether it is right. The expected calibration error is

    ECE = sum over bins b of (n_b / N) |accuracy_b - confidence_b|

over 15 bins of equal width (Guo et al., "On calibration of modern neural networks", ICML 2017,
arXiv 1706.04599). `overconfidence` is mean confidence less mean accuracy: above zero a model is
surer than it need be; unlike the ECE it is a mean over examples, so that it has an interval.
Of multiple choice a question is a position, and confidence the share of the chosen option in the
probability of all options.

E examples, N positions, B bins, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorakit.evaluate.judge import Scores
from lorakit.evaluate.statistics import Comparison, central_interval, p_value, resampled_means

CALIBRATION = "calibration"  # the name of what base and tuned come to on trained positions
NUM_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """How sure one model is, and how often it is right.

    Attributes:
        counts: int64 (B,), positions by confidence; bin b holds b/B < confidence <= (b+1)/B.
        confidences, rights: float64 (B,), sums over them.
        example_counts, example_excess: float64 (E,), positions of each example, and the sum of
            confidence less right over them.
    """

    counts: np.ndarray
    confidences: np.ndarray
    rights: np.ndarray
    example_counts: np.ndarray
    example_excess: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1."""
        return float(np.abs(self.rights - self.confidences).sum() / self.counts.sum())

    @property
    def confidence(self) -> float:
        return float(self.confidences.sum() / self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(self.rights.sum() / self.counts.sum())

    def to_json(self) -> dict[str, object]:
        """Mean confidence, accuracy and the bins that hold anything."""
        return {
            "error": self.error,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
            "bins": [
                {
                    "above": b / NUM_BINS,
                    "count": int(n),
                    "confidence": float(self.confidences[b] / n),
                    "accuracy": float(self.rights[b] / n),
                }
                for b, n in enumerate(self.counts)
                if n
            ],
        }


def reliability(
    confidence_N: np.ndarray, right_N: np.ndarray, owner_N: np.ndarray, num_examples: int
) -> Reliability:
    """Sort positions into bins.

    Args:
        confidence_N: float64 (N,), of the most probable token, in [0, 1].
        right_N: float64 (N,), 1 where it is the token that stands there, else 0.
        owner_N: int64 (N,), which example a position belongs to.
        num_examples: E.
    """
    # Probabilities round to just above 1; what is no number goes to the last bin and stays none.
    bounded = np.nan_to_num(np.clip(confidence_N, 0, 1), nan=1.0)
    bin_N = np.clip(np.ceil(bounded * NUM_BINS) - 1, 0, NUM_BINS - 1).astype(np.int64)
    return Reliability(
        np.bincount(bin_N, minlength=NUM_BINS),
        np.bincount(bin_N, confidence_N, minlength=NUM_BINS),
        np.bincount(bin_N, right_N, minlength=NUM_BINS),
        np.bincount(owner_N, minlength=num_examples).astype(np.float64),
        np.bincount(owner_N, confidence_N - right_N, minlength=num_examples),
    )


@dataclass(frozen=True)
class Calibration:
    """Base and tuned on the same positions.

    Attributes:
        overconfidence: confidence less accuracy of both, and their difference.
    """

    base: Reliability
    tuned: Reliability
    overconfidence: Comparison

    def to_json(self) -> dict[str, object]:
        """The shape of `calibration` in a set of `evaluation.json`."""
        return {
            "positions": int(self.base.counts.sum()),
            "base": self.base.to_json(),
            "tuned": self.tuned.to_json(),
            "overconfidence": self.overconfidence.to_json(),
        }


def compare_choices(scores: Scores, *, seed: int) -> Calibration | None:
    """How sure base and tuned are of the options they choose, and how often these are right.

    Args:
        scores: 0 or 1 for each question, with confidences.
        seed: of the resampling.
    """
    if scores.confidences is None:
        return None
    owner, count = np.arange(len(scores.base)), len(scores.base)
    base, tuned = (
        reliability(sure, right, owner, count)
        for sure, right in zip(scores.confidences, (scores.base, scores.tuned), strict=True)
    )
    return compare_calibration(base, tuned, seed=seed)


def compare_calibration(base: Reliability, tuned: Reliability, *, seed: int) -> Calibration | None:
    """Both models on the same positions; None where a probability is no number.

    Args:
        seed: of the resampling.
    """
    if not np.isfinite([base.confidence, tuned.confidence]).all():
        return None
    difference_E = tuned.example_excess - base.example_excess
    (change_R,) = resampled_means(difference_E[None], base.example_counts, seed=seed)
    before, after = (one.confidence - one.accuracy for one in (base, tuned))
    return Calibration(
        base,
        tuned,
        Comparison(
            before,
            after,
            after - before,
            central_interval(change_R),
            len(difference_E),
            p_value=p_value(change_R),
        ),
    )
