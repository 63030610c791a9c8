"""From numbers per example to a verdict: one set, measured twice.

E examples, A answered ones, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.evaluate.paired_proportions import (
    are_yes_or_no,
    interval_of_difference,
    tango_p_value,
)
from lorakit.evaluate.result import SetResult, retention_in_words
from lorakit.evaluate.statistics import (
    MIN_EXAMPLES,
    TOO_FEW,
    Comparison,
    Verdict,
    central_interval,
    interval_of_shares,
    mcnemar,
    p_value,
    p_value_of_margin,
    resampled_means,
    verdict_of_change,
    verdict_of_retention,
)
from lorakit.recipe.metric_names import KL
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
    """A scorer's values of the same A answered examples: float64 (A,) each.

    Attributes:
        confidences: how sure base and tuned were of each answer, in [0, 1]; None: not known.
        are_shares: each is found from several answers, in [0, 1]: base and tuned get intervals of
            their own.
    """

    base: np.ndarray
    tuned: np.ndarray
    higher_is_better: bool = True
    confidences: tuple[np.ndarray, np.ndarray] | None = None
    are_shares: bool = False


def judge(
    base: ExampleLosses,
    tuned: ExampleLosses,
    *,
    metrics: Sequence[str],
    primary: str,
    margin: float | None,
    scores: Mapping[str, Scores] | None = None,
    kl: np.ndarray | None = None,
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
        kl: float64 (E,), weighted sums of KL(base || tuned); None: not measured.
        seed: of the resampling.
    """
    compared = _compare_losses(base, tuned, ["loss", *metrics], seed)
    if kl is not None:
        compared[KL] = _distance(kl, base.weight, seed)
    for name, values in (scores or {}).items():
        compared[name] = _compare_scores(values, seed)
    comparisons = {name: one.comparison for name, one in compared.items()}
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
    return SetResult(
        count,
        count,
        comparisons,
        primary,
        verdict,
        margin,
        tuple(notes),
        p_value=_p_of_claim(compared[primary], verdict, margin),
    )


def _p_of_claim(primary: Compared, verdict: Verdict, margin: float | None) -> float | None:
    """Of no difference, or for retention of a loss of just the margin.

    That retention is "better" claims a difference, which is more than that the margin was kept.
    """
    one = primary.comparison
    if not one.enough or not one.is_finite:
        return None
    if margin is None or verdict == "better":
        return one.p_value
    lost_R = -primary.change_R if one.higher_is_better else primary.change_R
    resampled, pairs = p_value_of_margin(lost_R, margin), one.mcnemar
    if pairs is None:
        return resampled
    allowed = -margin if one.higher_is_better else margin
    return max(resampled, tango_p_value(pairs.gained, pairs.lost, one.examples, allowed))


def _verdict(losses: tuple[float, float], margin: float | None) -> Verdict:
    return verdict_of_change(losses) if margin is None else verdict_of_retention(losses, margin)


@dataclass(frozen=True)
class Compared:
    """A comparison and the resampled differences behind it, float64 (R,)."""

    comparison: Comparison
    change_R: np.ndarray


def _compare_losses(
    base: ExampleLosses, tuned: ExampleLosses, metrics: Sequence[str], seed: int
) -> dict[str, Compared]:
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
                samples_R = changed(loss_R, change_R)
                interval = central_interval(samples_R)
                difference = float(np.subtract(after, before))
                one = Comparison(
                    before, after, difference, interval, len(base.nll), p_value=_p(samples_R)
                )
                compared[name] = Compared(one, samples_R)
    return compared


def _p(samples_R: np.ndarray) -> float | None:
    return p_value(samples_R) if np.isfinite(samples_R).all() else None


def _distance(kl: np.ndarray, weight: np.ndarray, seed: int) -> Compared:
    (kl_R,) = resampled_means(kl[None], weight, seed=seed)
    mean = float(kl.sum() / weight.sum())
    interval = central_interval(kl_R)
    return Compared(Comparison(0.0, mean, mean, interval, len(kl), is_distance=True), kl_R)


def compare_scores(scores: Scores, seed: int) -> Comparison:
    """The means of two models' scores of the same examples, and their difference, paired."""
    return _compare_scores(scores, seed).comparison


def _compare_scores(scores: Scores, seed: int) -> Compared:
    differences = scores.tuned - scores.base
    (change_R,) = resampled_means(differences[None], np.ones(len(differences)), seed=seed)
    yes_or_no = are_yes_or_no(scores.base, scores.tuned)
    pairs = mcnemar(scores.base, scores.tuned) if yes_or_no else None
    own = None
    if scores.are_shares:
        own = (interval_of_shares(scores.base), interval_of_shares(scores.tuned))
    one = Comparison(
        float(scores.base.mean()),
        float(scores.tuned.mean()),
        float(differences.mean()),
        interval_of_difference(scores.base, scores.tuned, change_R),
        len(differences),
        scores.higher_is_better,
        p_value=p_value(change_R) if pairs is None else pairs.mid_p,
        mcnemar=pairs,
        intervals=own,
    )
    return Compared(one, change_R)
