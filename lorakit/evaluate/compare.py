"""Before and after on named sets: what changed, how sure that is, and the verdict in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lorakit.adapters.attached import adapter_disabled
from lorakit.data.examples import ExampleSet
from lorakit.errors import RecipeError
from lorakit.evaluate.statistics import (
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
    """The comparison of one set."""

    examples: int
    metrics: dict[str, Comparison]
    primary: str
    verdict: Verdict
    margin: float | None  # None: any change counts; else how much the primary metric may lose

    def to_json(self) -> dict[str, object]:
        """The shape of `evaluation.json`."""
        return {
            "examples": self.examples,
            "metrics": {name: comparison.to_json() for name, comparison in self.metrics.items()},
            "primary": self.primary,
            "verdict": self.verdict,
            "margin": self.margin,
        }

    def in_words(self, name: str) -> str:
        """One sentence a newcomer understands."""
        change = self.metrics[self.primary]
        low, high = change.interval
        numbers = (
            f"{self.primary} {change.base:.4f} -> {change.tuned:.4f} "
            f"(difference {change.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
        )
        return f"{name}: {self.verdict}; {numbers}, {self.examples} examples"


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
        max_examples: per set.
        seed: of the resampling.

    Raises:
        RecipeError: a metric that does not exist.
    """
    check_metrics(metrics, primary)
    results = {}
    for name, examples in sets.items():
        tuned, base = (
            _losses(model, examples, name, adapter, token_budget, packed, max_examples)
            for adapter in (True, False)
        )
        names = list(dict.fromkeys(["loss", *metrics]))
        allowed = margin if name == RETENTION else None
        results[name] = judge(
            base, tuned, metrics=names, primary=primary, margin=allowed, seed=seed
        )
    return results


def _losses(
    model: PreTrainedModel,
    examples: ExampleSet,
    name: str,
    adapter: bool,
    token_budget: int,
    packed: bool,
    max_examples: int | None,
) -> ExampleLosses:
    def measure(who: str) -> ExampleLosses:
        return example_losses(
            model,
            examples,
            token_budget=token_budget,
            packed=packed,
            max_examples=max_examples,
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
    """Compare losses on the same examples; `margin` not None asks for non-inferiority."""
    means_KR = resampled_means(np.stack([base.nll, tuned.nll]), base.weight, seed=seed)
    comparisons = {}
    for name in metrics:
        of_loss = METRICS[name]
        before, after = (
            float(of_loss(base.mean)),
            float(of_loss(tuned.mean)),
        )
        differences_R = of_loss(means_KR[1]) - of_loss(means_KR[0])
        comparisons[name] = Comparison(
            before, after, after - before, percentile_interval(differences_R)
        )
    interval = comparisons[primary].interval
    if margin is None:
        verdict = verdict_of_change(interval, lower_is_better=True)
    else:
        verdict = verdict_of_retention(interval, margin, lower_is_better=True)
    return SetResult(len(base.nll), comparisons, primary, verdict, margin)
