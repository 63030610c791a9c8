"""From numbers per example to a verdict: one set, measured twice.

E examples, A answered ones, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.evaluate.result import SetResult, retention_in_words
from lorakit.evaluate.statistics import (
    MIN_EXAMPLES,
    TOO_FEW,
    Comparison,
    Verdict,
    central_interval,
    resampled_means,
    verdict_of_change,
    verdict_of_retention,
)
from lorakit.train.losses import ExampleLosses


def _perplexity_change(loss: Any, change: Any) -> Any:
    return np.exp(loss) * np.expm1(change)  # exactly zero where the loss did not change


# Metrics of the mean loss per trained token: its value, and how it changes when the loss changes.
LOSS_METRICS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "loss": (lambda loss: loss, lambda loss, change: change),
    "perplexity": (np.exp, _perplexity_change),
}


@dataclass(frozen=True)
class Scores:
    """A scorer's values of the same A answered examples: float64 (A,) each."""

    base: np.ndarray
    tuned: np.ndarray
    higher_is_better: bool = True


def judge(
    base: ExampleLosses,
    tuned: ExampleLosses,
    *,
    metrics: Sequence[str],
    primary: str,
    margin: float | None,
    scores: Mapping[str, Scores] | None = None,
    seed: int = 0,
) -> SetResult:
    """Compare what was measured on the same examples; `margin` not None asks for non-inferiority.

    Under MIN_EXAMPLES the verdict is always "no difference", for retention too: a handful of rows
    shows neither a loss nor that there is none. A note says so, and people are never told "no
    difference" but that there are too few examples.

    Args:
        base: losses of E examples before.
        tuned: after.
        metrics: those of LOSS_METRICS that are wanted; others are left out.
        primary: the metric the verdict rests on; among `metrics` or `scores`.
        margin: how much of `primary` may be lost, in its own unit.
        scores: {scorer: its values}.
        seed: of the resampling.
    """
    comparisons = _compare_losses(base, tuned, ["loss", *metrics], seed)
    for name, values in (scores or {}).items():
        comparisons[name] = compare_scores(values, seed)
    change = comparisons[primary]
    notes = [
        f"{name} is beyond what a number can hold"
        for name, comparison in comparisons.items()
        if not comparison.is_finite
    ]
    if not change.enough:
        notes.insert(0, f"{TOO_FEW}: a verdict needs {MIN_EXAMPLES}")
        verdict: Verdict = "no difference"
    elif not np.isfinite(tuned.mean) and np.isfinite(base.mean):
        verdict = "worse"
    elif change.is_finite:
        verdict = _verdict(change.losses, margin)
        if margin is not None:
            notes.insert(0, retention_in_words(primary, change, margin))
    else:  # rises with the loss, so the loss decides; no finite margin covers such a rise
        verdict = _verdict(comparisons["loss"].losses, None if margin is None else 0.0)
    count = len(base.nll)
    return SetResult(count, count, comparisons, primary, verdict, margin, tuple(notes))


def _verdict(losses: tuple[float, float], margin: float | None) -> Verdict:
    return verdict_of_change(losses) if margin is None else verdict_of_retention(losses, margin)


def _compare_losses(
    base: ExampleLosses, tuned: ExampleLosses, metrics: Sequence[str], seed: int
) -> dict[str, Comparison]:
    # Past a loss of 709 exp is infinite in float64: that is an answer here, not a fault.
    with np.errstate(over="ignore", invalid="ignore"):
        # The differences are resampled, not the two means: equal losses differ by exactly zero.
        values_KE = np.stack([base.nll, tuned.nll - base.nll])
        loss_R, change_R = resampled_means(values_KE, base.weight, seed=seed)
        compared = {}
        for name in dict.fromkeys(metrics):
            if name in LOSS_METRICS:
                value, changed = LOSS_METRICS[name]
                before, after = float(value(base.mean)), float(value(tuned.mean))
                interval = central_interval(changed(loss_R, change_R))
                difference = float(np.subtract(after, before))
                compared[name] = Comparison(before, after, difference, interval, len(base.nll))
    return compared


def compare_scores(scores: Scores, seed: int) -> Comparison:
    """The means of two models' scores of the same examples, and their difference, paired."""
    differences = scores.tuned - scores.base
    (change_R,) = resampled_means(differences[None], np.ones(len(differences)), seed=seed)
    return Comparison(
        float(scores.base.mean()),
        float(scores.tuned.mean()),
        float(differences.mean()),
        central_interval(change_R),
        len(differences),
        scores.higher_is_better,
    )
