"""What lm-eval found of base and tuned on one task, side by side.

Where lm-eval reports the mean of a number per document (or, for perplexities, of words and bytes)
the interval of the difference is paired, since both models answer the same documents; elsewhere it
follows from the two standard errors, or is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from lorakit.errors import RunError
from lorakit.evaluate.judge import Scores, compare_scores
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import (
    MIN_EXAMPLES,
    TOO_FEW,
    Comparison,
    Verdict,
    central_interval,
    p_value,
    resampled_means,
    verdict_of_change,
)

NORMAL_95 = 1.959963984540054  # the quantile of the normal distribution for two-sided 95 %


def _same(mean: Any) -> Any:
    return mean


def _perplexity(mean: Any) -> Any:
    return np.exp(-mean)


def _bits(mean: Any) -> Any:
    return -mean / math.log(2)


# What lm-eval makes of a weighted mean log-likelihood; of all else it reports the mean itself.
OF_MEAN: dict[str, Callable[[Any], Any]] = {
    "word_perplexity": _perplexity,
    "byte_perplexity": _perplexity,
    "bits_per_byte": _bits,
}


def compared(base: Mapping[str, Any], tuned: Mapping[str, Any], task: str, seed: int) -> SetResult:
    """The comparison of one task; the metric that lm-eval names first decides."""
    counts = tuned["n-samples"][task]
    metrics = {}
    for key, value in tuned["results"][task].items():
        name, _, filtered = key.partition(",")
        if filtered and not name.endswith("_stderr") and _is_number(value):
            title = name if filtered == "none" else f"{name}, {filtered}"
            metrics[title] = _metric(base, tuned, task, key, counts["effective"], seed)
    if not metrics:
        raise RunError(
            f"lm-eval's task {task} has no metric that is a number. Remove it from "
            "evaluate.lm_eval.tasks."
        )
    primary = next(iter(metrics))
    change = metrics[primary]
    shots, version = tuned["n-shot"].get(task, 0), tuned["versions"].get(task)
    of = f"; version {version:g} of the task" if _is_number(version) else ""
    notes = [f"{shots} {'example' if shots == 1 else 'examples'} in the prompt{of}"]
    if counts["effective"] < counts["original"]:
        notes.append(f"the first {counts['effective']} of {counts['original']} documents")
    if not change.enough:
        notes.insert(0, f"{TOO_FEW}: a verdict needs {MIN_EXAMPLES}")
    unpaired = [name for name, one in metrics.items() if not one.is_finite]
    if unpaired:
        notes.append(f"no interval is known for {', '.join(unpaired)}")
    verdict: Verdict = "no difference"
    if change.enough and change.is_finite:
        verdict = verdict_of_change(change.losses)
    return SetResult(
        counts["effective"],
        counts["effective"],
        metrics,
        primary,
        verdict,
        None,
        tuple(notes),
        p_value=change.p_value if change.enough and change.is_finite else None,
    )


def _metric(
    base: Mapping[str, Any], tuned: Mapping[str, Any], task: str, key: str, count: int, seed: int
) -> Comparison:
    """One metric, paired where its value is a function of the mean of a number per document."""
    name, _, filtered = key.partition(",")
    better = tuned["higher_is_better"].get(task, {}).get(name) is not False
    before, after = (float(one["results"][task][key]) for one in (base, tuned))
    errors = tuple(
        _error(one["results"][task].get(f"{name}_stderr,{filtered}")) for one in (base, tuned)
    )
    found = [_per_document(one["samples"][task], name, filtered) for one in (base, tuned)]
    if found[0] is not None and found[1] is not None:
        paired = _paired(found[0], found[1], name, (before, after), better, seed)
        if paired is not None:
            return replace(paired, stderr=errors)
    # Of independent samples the variances add up: without pairs, wider than it need be.
    error = math.hypot(*(math.nan if e is None else e for e in errors))
    change, half = after - before, NORMAL_95 * error
    return Comparison(
        before,
        after,
        change,
        (change - half, change + half),
        count,
        better,
        p_value=_p_of_normal(change, error),
        stderr=errors,
    )


def _p_of_normal(change: float, error: float) -> float | None:
    """Two-sided, of no change; None: the error is not known."""
    if not math.isfinite(error):
        return None
    if error == 0:
        return float(change == 0)
    return 2 * NormalDist().cdf(-abs(change) / error)


def _paired(
    base_2E: np.ndarray,
    tuned_2E: np.ndarray,
    name: str,
    reported: tuple[float, float],
    better: bool,
    seed: int,
) -> Comparison | None:
    """The documents resampled once for both models; None where lm-eval's value is no such mean.

    Args:
        base_2E: see `_per_document`; its weights are those of tuned too.
    """
    value = OF_MEAN.get(name, _same)
    weight_E = base_2E[1]
    means = [one[0].sum() / weight_E.sum() for one in (base_2E, tuned_2E)]
    if not np.allclose([value(mean) for mean in means], reported, rtol=1e-9, atol=1e-12):
        return None
    if value is _same and (weight_E == 1).all():
        return compare_scores(Scores(base_2E[0], tuned_2E[0], better), seed)
    # The differences are resampled, not the two means: equal values differ by exactly zero.
    mean_R, change_R = resampled_means(
        np.stack([base_2E[0], tuned_2E[0] - base_2E[0]]), weight_E, seed=seed
    )
    with np.errstate(over="ignore", invalid="ignore"):
        samples_R = value(mean_R + change_R) - value(mean_R)
    before, after = reported
    return Comparison(
        before,
        after,
        after - before,
        central_interval(samples_R),
        len(weight_E),
        better,
        p_value=p_value(samples_R) if np.isfinite(samples_R).all() else None,
    )


def _per_document(
    samples: Sequence[Mapping[str, Any]], name: str, filtered: str
) -> np.ndarray | None:
    """float64 (2, documents): what is summed, and its weight; None where there is no such number.

    Of a text's likelihood lm-eval keeps a pair, (log-likelihood, words or bytes).
    """
    mine = [one for one in samples if one["filter"] == filtered and name in one]
    values = [one[name] for one in sorted(mine, key=lambda one: one["doc_id"])]
    pairs = [value if isinstance(value, tuple | list) else (value, 1) for value in values]
    if not pairs or not all(len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs):
        return None
    return np.array(pairs, np.float64).T


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.integer | np.floating | np.bool_)


def _error(value: object) -> float | None:
    """A standard error; lm-eval writes "N/A" where it has none."""
    return float(value) if isinstance(value, int | float | np.floating) else None
