"""A set whose prompts are said otherwise, held against the same rows as they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.data.sources import Placed
from lorakit.data.variants import variant
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import central_interval, p_value, resampled_means


@dataclass(frozen=True)
class Change:
    """One metric of one model: the prompts as given, and said otherwise.

    Attributes:
        difference: varied less given.
    """

    given: float
    varied: float
    difference: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class MetricLoss:
    """What other prompts cost in one metric.

    Attributes:
        extra: how much more the tuned model changes than its base does; its interval.
        examples: in both sets.
    """

    base: Change
    tuned: Change
    extra: float
    extra_interval: tuple[float, float]
    examples: int
    higher_is_better: bool

    def to_json(self) -> dict[str, object]:
        return {
            "base": vars(self.base) | {"interval": list(self.base.interval)},
            "tuned": vars(self.tuned) | {"interval": list(self.tuned.interval)},
            "extra": {"difference": self.extra, "interval": list(self.extra_interval)},
            "examples": self.examples,
            "higher_is_better": self.higher_is_better,
        }


@dataclass(frozen=True)
class VariantLoss:
    """What is lost when prompts are said otherwise.

    Attributes:
        source: name of the set as it was given.
        how: what was done to its prompts, in words.
        metrics: the loss, and every scorer of both sets.
    """

    source: str
    variant: str
    how: str
    metrics: dict[str, MetricLoss]

    def to_json(self) -> dict[str, object]:
        """The shape of `variant` in a set of `evaluation.json`."""
        return {
            "source": self.source,
            "name": self.variant,
            "how": self.how,
            "metrics": {name: one.to_json() for name, one in self.metrics.items()},
        }


def same_rows(source: Sequence[Placed], varied: Sequence[Placed]) -> dict[int, int]:
    """{place in the source: place of the same row in the variant}, for rows that both have.

    A variant has the rows of its source in the same order, but for those that grew too long.
    """
    if len(source) == len(varied):
        return {place: place for place in range(len(source))}
    places, at = {}, 0
    for place, row in enumerate(source):
        if at < len(varied) and varied[at].location == row.location:
            places[place] = at
            at += 1
    return places


def measure_variant(
    given: SetResult,
    varied: SetResult,
    places: dict[int, int],
    *,
    source: str,
    name: str,
    seed: int,
) -> VariantLoss:
    """Hold a variant against its source, example by example.

    Args:
        given, varied: both measured, see `SetResult.measured`.
        places: see `same_rows`.
        source, name: what the source and the variant are called.
        seed: of the resampling.
    """
    metrics = {"loss": _loss(given, varied, places, seed)}
    metrics |= _scores(given, varied, places, seed)
    kept = {key: one for key, one in metrics.items() if one is not None}
    return VariantLoss(source, name, variant(name).SUMMARY, kept)


def _loss(
    given: SetResult, varied: SetResult, places: dict[int, int], seed: int
) -> MetricLoss | None:
    before, after = given.measured, varied.measured
    assert before is not None and after is not None
    at = {index: place for place, index in enumerate(after.indices.tolist())}
    pairs = [
        (place, at[places[index]])
        for place, index in enumerate(before.indices.tolist())
        if places.get(index) in at
    ]
    if not pairs:
        return None
    one, other = np.array(pairs).T
    values_4E = np.stack(
        [
            before.base.nll[one],
            after.base.nll[other],
            before.tuned.nll[one],
            after.tuned.nll[other],
        ]
    )
    # The answer is the same, so both count the same tokens.
    return _compare(values_4E, before.base.weight[one], seed, higher_is_better=False)


def _scores(
    given: SetResult, varied: SetResult, places: dict[int, int], seed: int
) -> dict[str, MetricLoss | None]:
    after = {answered.index: answered.scores for answered in varied.answered}
    pairs = [
        (answered.scores, after[places[answered.index]])
        for answered in given.answered
        if places.get(answered.index) in after
    ]
    names = dict.fromkeys(name for one, _ in pairs for name in one)
    found = {}
    for name in names:  # an answer without a score, such as a judge's, is in no pair
        scored = [
            (*one[name], *other[name]) for one, other in pairs if name in one and name in other
        ]
        if scored:
            values_4E = np.array(scored).T[[0, 2, 1, 3]]
            higher = given.metrics[name].higher_is_better
            found[name] = _compare(values_4E, np.ones(len(scored)), seed, higher_is_better=higher)
    return found


def _compare(
    values_4E: np.ndarray, weights_E: np.ndarray, seed: int, *, higher_is_better: bool
) -> MetricLoss | None:
    """Base given, base varied, tuned given, tuned varied; None where a value is no number."""
    if not np.isfinite(values_4E).all():
        return None
    base_E, tuned_E = values_4E[1] - values_4E[0], values_4E[3] - values_4E[2]
    changes_3E = np.stack([base_E, tuned_E, tuned_E - base_E])
    changes_3R = resampled_means(changes_3E, weights_E, seed=seed)
    means = values_4E.sum(axis=1) / weights_E.sum()

    def change(first: int, samples_R: np.ndarray) -> Change:
        given, varied = float(means[first]), float(means[first + 1])
        return Change(
            given, varied, varied - given, central_interval(samples_R), p_value(samples_R)
        )

    return MetricLoss(
        change(0, changes_3R[0]),
        change(2, changes_3R[1]),
        float(means[3] - means[2] - (means[1] - means[0])),
        central_interval(changes_3R[2]),
        len(weights_E),
        higher_is_better,
    )
