"""Before and after on named sets: what changed, how sure that is, and the verdict in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lorakit.adapters.attached import adapter_disabled
from lorakit.data.examples import Example, ExampleSet
from lorakit.errors import RecipeError
from lorakit.evaluate.statistics import (
    MIN_EXAMPLES,
    Comparison,
    Verdict,
    percentile_interval,
    resampled_means,
    verdict_of_change,
    verdict_of_retention,
)
from lorakit.train.losses import ExampleLosses, example_losses

# Each metric is a function of the mean loss per trained token, and lower is better for both.
METRICS: dict[str, Callable[[Any], Any]] = {
    "loss": lambda loss: loss,
    "perplexity": np.exp,
}
RETENTION = "retention"


@dataclass(frozen=True)
class SetResult:
    """The comparison of one set.

    Attributes:
        examples: measured ones, out of `available`.
        margin: how much the primary metric may lose; None: any change counts.
        notes: what a reader of the verdict has to know.
    """

    examples: int
    available: int
    metrics: dict[str, Comparison]
    primary: str
    verdict: Verdict
    margin: float | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The shape of `evaluation.json`."""
        return {
            "examples": self.examples,
            "available": self.available,
            "metrics": {name: comparison.to_json() for name, comparison in self.metrics.items()},
            "primary": self.primary,
            "verdict": self.verdict,
            "margin": self.margin,
            "notes": list(self.notes),
        }

    def in_words(self, name: str) -> str:
        """One sentence a newcomer understands."""
        change = self.metrics[self.primary]
        low, high = change.interval
        numbers = (
            f"{self.primary} {change.base:.4f} -> {change.tuned:.4f} "
            f"(difference {change.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
        )
        of = f" drawn by seed out of {self.available}" if self.examples < self.available else ""
        said = [f"{name}: {self.verdict}", numbers + f", {self.examples} examples{of}"]
        return "; ".join([*said, *self.notes])


def check_metrics(metrics: list[str], primary: str) -> None:
    """Raise RecipeError for a metric that does not exist or a primary one that is not measured."""
    unknown = [name for name in [*metrics, primary] if name not in METRICS]
    if unknown:
        raise RecipeError(
            f"evaluate.metrics or evaluate.primary names {unknown[0]!r}; possible: "
            f"{', '.join(METRICS)}. Choose one of them."
        )
    if primary not in metrics and primary != "loss":
        raise RecipeError(
            f"evaluate.primary {primary!r} is not among evaluate.metrics {metrics}; add it there."
        )


def compare_sets(
    model: PreTrainedModel,
    sets: dict[str, ExampleSet],
    *,
    metrics: list[str],
    primary: str,
    margin: float,
    token_budget: int,
    packed: bool,
    max_examples: int | None = None,
    seed: int = 0,
) -> dict[str, SetResult]:
    """Measure every set with the adapter off (base) and on (tuned).

    Args:
        model: with an adapter attached and switched on.
        sets: {name: examples}; the name `retention` is judged by non-inferiority.
        metrics: names out of METRICS; `loss` is always measured.
        primary: the metric the verdict rests on.
        margin: how much `primary` may rise on the retention set, in the metric's own unit.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.
        max_examples: per set; a larger set is sampled, the same rows for base and tuned.
        seed: of that sample and of the resampling.

    Raises:
        RecipeError: a metric that does not exist.
    """
    check_metrics(metrics, primary)
    results = {}
    for name, examples in sets.items():
        drawn = sample(examples, max_examples, seed=seed)
        tuned, base = (
            _losses(model, drawn, name, adapter, token_budget, packed) for adapter in (True, False)
        )
        names = list(dict.fromkeys(["loss", *metrics]))
        allowed = margin if name == RETENTION else None
        result = judge(base, tuned, metrics=names, primary=primary, margin=allowed, seed=seed)
        results[name] = replace(result, available=len(examples))
    return results


def sample(examples: ExampleSet, max_examples: int | None, *, seed: int) -> ExampleSet:
    """At most `max_examples` of the examples, in their order; files are often sorted by topic."""
    if max_examples is None or len(examples) <= max_examples:
        return examples
    generator = np.random.Generator(np.random.Philox(seed))
    return _Sample(examples, np.sort(generator.permutation(len(examples))[:max_examples]))


class _Sample:
    """An ExampleSet of some examples of another one."""

    def __init__(self, examples: ExampleSet, indices: np.ndarray) -> None:
        self._examples = examples
        self._indices = indices
        self.lengths = examples.lengths[indices]
        self.trained_lengths = examples.trained_lengths[indices]
        chosen = indices.astype("<i8").tobytes()
        self.fingerprint = hashlib.sha256(examples.fingerprint.encode() + chosen).hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._examples[int(self._indices[index])]


def _losses(
    model: PreTrainedModel,
    examples: ExampleSet,
    name: str,
    adapter: bool,
    token_budget: int,
    packed: bool,
) -> ExampleLosses:
    def measure(who: str) -> ExampleLosses:
        return example_losses(
            model,
            examples,
            token_budget=token_budget,
            packed=packed,
            description=f"{name}: {who}",
        )

    if adapter:
        return measure("tuned")
    with adapter_disabled(model):
        return measure("base")


def judge(
    base: ExampleLosses,
    tuned: ExampleLosses,
    *,
    metrics: list[str],
    primary: str,
    margin: float | None,
    seed: int = 0,
) -> SetResult:
    """Compare losses on the same examples; `margin` not None asks for non-inferiority.

    Under MIN_EXAMPLES the verdict is always "no difference", for retention too: a handful of rows
    shows neither a loss nor that there is none, and a note says so.
    """
    means_KR = resampled_means(np.stack([base.nll, tuned.nll]), base.weight, seed=seed)
    comparisons = {name: _compare(METRICS[name], base, tuned, means_KR) for name in metrics}
    count = len(base.nll)
    notes = [
        f"{name} is beyond what a number can hold"
        for name, comparison in comparisons.items()
        if not comparison.is_finite
    ]
    if count < MIN_EXAMPLES:
        notes.insert(0, f"too few examples to tell: a verdict needs {MIN_EXAMPLES}")
        verdict: Verdict = "no difference"
    elif not np.isfinite(tuned.mean) and np.isfinite(base.mean):
        verdict = "worse"
    elif comparisons[primary].is_finite:
        verdict = _verdict(comparisons[primary].interval, margin)
    else:  # rises with the loss, so the loss decides; no finite margin covers such a rise
        interval = _compare(METRICS["loss"], base, tuned, means_KR).interval
        verdict = _verdict(interval, None if margin is None else 0.0)
    return SetResult(count, count, comparisons, primary, verdict, margin, tuple(notes))


def _verdict(interval: tuple[float, float], margin: float | None) -> Verdict:
    if margin is None:
        return verdict_of_change(interval, lower_is_better=True)
    return verdict_of_retention(interval, margin, lower_is_better=True)


def _compare(
    of_loss: Callable[[Any], Any], base: ExampleLosses, tuned: ExampleLosses, means_KR: np.ndarray
) -> Comparison:
    # Past a loss of 709 exp is infinite in float64: that is an answer here, not a fault.
    with np.errstate(over="ignore", invalid="ignore"):
        before, after = float(of_loss(base.mean)), float(of_loss(tuned.mean))
        difference = float(np.subtract(after, before))
        interval = percentile_interval(of_loss(means_KR[1]) - of_loss(means_KR[0]))
    return Comparison(before, after, difference, interval)
