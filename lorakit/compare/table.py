"""The five ways in numbers, and what follows from them: the value behind compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit import tasks
from lorakit.compare.measure import LOSS, Measured
from lorakit.compare.prompts import Way
from lorakit.compare.questions import AskedQuestion
from lorakit.compare.recommend import (
    Recommendation,
    Terms,
    WayNumbers,
    best_of,
    best_prompting,
    break_even,
    recommend,
)
from lorakit.errors import RunError
from lorakit.evaluate.paired_proportions import are_yes_or_no, interval_of_difference
from lorakit.evaluate.statistics import (
    CONFIDENCE,
    central_interval,
    interval_of_shares,
    resampled_means,
)

PER_CALLS = 1000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Quality:
    """One metric of one way.

    Attributes:
        mean: over the questions (loss: over the tokens of the right answers).
        interval: of the mean, at CONFIDENCE.
        differences: {"base", "best": (this way - that one, interval)}; not against itself. Those
            against the best are at a confidence at which all of them hold together.
    """

    mean: float
    interval: Interval
    differences: Mapping[str, tuple[float, Interval]]

    def to_json(self) -> dict[str, Any]:
        """The shape in compare.json."""
        told: dict[str, Any] = {"mean": self.mean, "interval": list(self.interval)}
        for against in ("base", "best"):
            found = self.differences.get(against)
            told[f"against_{against}"] = (
                None if found is None else {"difference": found[0], "interval": list(found[1])}
            )
        return told


@dataclass(frozen=True)
class SetUp:
    """What a way takes before its first call.

    Attributes:
        seconds: {what: seconds}, such as training and indexing.
        cost: in the table's unit.
    """

    seconds: Mapping[str, float]
    cost: float


@dataclass(frozen=True)
class WayRow:
    """A way that was measured, and its costs."""

    measured: Measured
    quality: Mapping[str, Quality]
    cost_per_call: float
    setup: SetUp

    @property
    def way(self) -> Way:
        return self.measured.way

    def to_json(self) -> dict[str, Any]:
        """The shape in compare.json."""
        measured = self.measured
        prompts, latency = measured.prompts.prompts, measured.latency
        prompt, answer = measured.prompt_tokens.mean(), measured.answer_tokens.mean()
        return {
            "title": self.way.title,
            "metrics": {name: quality.to_json() for name, quality in self.quality.items()},
            "tokens": {
                "prompt": float(prompt),
                "answer": float(answer),
                "total": float(prompt + answer),
            },
            "examples_in_prompt": float(np.mean([one.examples for one in prompts])),
            "documents_in_prompt": float(np.mean([len(one.found) for one in prompts])),
            "answers_cut": measured.num_cut,
            "answers_citing": measured.num_cited,
            "latency_seconds": {
                "calls": latency.calls,
                "median": latency.median,
                "p95": latency.p95,
                "first_token": latency.first_token,
                "search": measured.prompts.search_seconds,
            },
            "calls_per_second": len(prompts) / measured.seconds,
            "cost_per_1000_calls": PER_CALLS * self.cost_per_call,
            "setup": {"seconds": dict(self.setup.seconds), "cost": self.setup.cost},
        }


@dataclass(frozen=True)
class CostBasis:
    """What costs are reckoned in.

    Attributes:
        unit: a currency, or `machine-seconds` where nothing has a price.
        call, setup: in words: what a call and the set-up are reckoned by, with dates.
    """

    unit: str
    call: str
    setup: str

    def to_json(self) -> dict[str, str]:
        """The shape in compare.json."""
        return vars(self).copy()


@dataclass(frozen=True)
class Table:
    """Everything that was measured, and the verdict.

    Attributes:
        set_name: of the questions.
        available: rows of it that could be asked.
        questions: those that were.
        primary: the metric the verdict rests on.
        higher_is_better: {metric: whether more of it is better}.
        rows: ways that were measured, simplest first.
        not_measured: {way: why not}.
        break_even_against: the best good enough way without training; None: there is none.
        break_even: {good enough tuned way: calls from which on it has cost less than that, or None:
            never}.
        notes: what a reader has to know.
    """

    set_name: str
    available: int
    questions: Sequence[AskedQuestion]
    primary: str
    higher_is_better: Mapping[str, bool]
    margin: float
    calls: int
    rows: Sequence[WayRow]
    not_measured: Mapping[str, str]
    cost: CostBasis
    break_even_against: str | None
    break_even: Mapping[str, int | None]
    recommendation: Recommendation
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """compare.json, without what the caller knows of run and documents; see docs/compare.md."""
        return {
            "set": self.set_name,
            "available": self.available,
            "examples": len(self.questions),
            "primary": self.primary,
            "higher_is_better": dict(self.higher_is_better),
            "margin": self.margin,
            "calls": self.calls,
            "ways": {row.way.name: row.to_json() for row in self.rows},
            "not_measured": dict(self.not_measured),
            "cost_basis": self.cost.to_json(),
            "break_even": {"against": self.break_even_against, "calls": dict(self.break_even)},
            "recommendation": self.recommendation.to_json(),
            "notes": list(self.notes),
        }

    def answers_to_json(self) -> list[dict[str, Any]]:
        """The lines of compare_answers.jsonl."""
        return [self._answered(place, one) for place, one in enumerate(self.questions)]

    def _answered(self, place: int, question: AskedQuestion) -> dict[str, Any]:
        ways = {}
        for row in self.rows:
            measured = row.measured
            prompt = measured.prompts.prompts[place]
            ways[row.way.name] = {
                "answer": measured.answers[place].text,
                "scores": {
                    name: float(values[place])
                    for name, values in measured.values.items()
                    if name != LOSS
                },
                "prompt_tokens": int(measured.prompt_tokens[place]),
                "answer_tokens": int(measured.answer_tokens[place]),
                "examples": prompt.examples,
                "sources": [one.to_json() for one in prompt.found],
            }
        return {
            "index": question.index,
            "where": question.where,
            "question": question.text,
            "reference": question.reference,
            "ways": ways,
        }


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric != LOSS and tasks.scorer(metric).HIGHER_IS_BETTER


def qualities(
    measured: Sequence[Measured], questions: Sequence[AskedQuestion], *, seed: int
) -> dict[str, dict[str, Quality]]:
    """{way: {metric: its mean, and how it differs from the plain base and from the best way}}.

    Raises:
        RunError: a value that is no finite number.
    """
    found: dict[str, dict[str, Quality]] = {one.way.name: {} for one in measured}
    for metric in measured[0].values:
        weights = np.ones(len(questions))
        if metric == LOSS:
            weights = np.array([one.answer_weights.sum() for one in questions], np.float64)
        values = {one.way.name: one.values[metric] for one in measured}
        for name, quality in _of_metric(values, weights, metric, seed).items():
            found[name][metric] = quality
    return found


def _of_metric(
    values: Mapping[str, np.ndarray], weights: np.ndarray, metric: str, seed: int
) -> dict[str, Quality]:
    broken = [name for name, one in values.items() if not np.isfinite(one).all()]
    if broken:
        raise RunError(
            f"{metric} of {' and '.join(broken)} is no finite number, so that nothing can be "
            "compared with it. Look at the run's training loss, or use a wider base.dtype."
        )
    means = {name: float(one.sum() / weights.sum()) for name, one in values.items()}
    best = best_of(list(means.items()), higher_is_better=higher_is_better(metric))
    # Bonferroni: the best is looked for among all, so that one lucky difference is not enough.
    together = 1 - (1 - CONFIDENCE) / max(1, len(values) - 1)
    anchors = {"base": ("base", CONFIDENCE), "best": (best, together)}
    # The differences are resampled, not the means: equal values differ by exactly zero.
    names = list(values)
    rows = [values[name] for name in names]
    rows += [
        values[name] - values[other]
        for other, _ in anchors.values()
        for name in names
        if other in values
    ]
    samples = iter(resampled_means(np.stack(rows), weights, seed=seed))
    intervals = {
        name: interval_of_shares(values[name]) if are_yes_or_no(values[name]) else resampled
        for name in names
        for resampled in [central_interval(next(samples))]
    }
    differences: dict[str, dict[str, tuple[float, Interval]]] = {name: {} for name in names}
    for anchor, (other, confidence) in anchors.items():
        if other not in values:
            continue
        for name in names:
            interval = interval_of_difference(
                values[other], values[name], next(samples), confidence
            )
            if name != other:
                differences[name][anchor] = (means[name] - means[other], interval)
    return {name: Quality(means[name], intervals[name], differences[name]) for name in names}


def numbers_of(row: WayRow, primary: str, better_up: bool) -> WayNumbers:
    """A row as the rules look at it."""
    quality = row.quality[primary]
    low, high = quality.differences.get("best", (0.0, (0.0, 0.0)))[1]
    lost = (-high, -low) if better_up else (low, high)
    return WayNumbers(
        row.way.name,
        row.way.title,
        row.way.is_tuned,
        quality.mean,
        lost,
        row.cost_per_call,
        row.setup.cost,
    )


def conclude(
    rows: Sequence[WayRow], primary: str, terms: Terms
) -> tuple[Recommendation, str | None, dict[str, int | None]]:
    """The recommendation, the way that tuning is held against, and from how many calls on each
    tuned way has cost less than that one; of ways that are good enough only."""
    ways = [numbers_of(row, primary, terms.higher_is_better) for row in rows]
    found = recommend(ways, terms)
    good = [way for way in ways if way.name in found.good_enough]
    against = best_prompting(good, higher_is_better=terms.higher_is_better)
    repaid = {}
    if against is not None:
        repaid = {way.name: break_even(way, against) for way in good if way.is_tuned}
    return found, None if against is None else against.name, repaid
