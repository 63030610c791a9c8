"""Which answers the page shows: chosen by a rule from all of them, never by taste."""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.data.variants import source_and_variant
from lorakit.report.evaluation_files import Answer
from lorakit.report.files import RunFiles
from lorakit.report.order import in_order
from lorakit.report.verdicts import RETENTION
from lorakit.report.words import counted, metric_name, set_name

NUM_FORGOTTEN = 3


@dataclass(frozen=True)
class Sample:
    """An answer, why it is shown, and its change in the metric it was chosen by."""

    label: str
    answer: Answer
    metric: str
    base: float
    tuned: float

    @property
    def change(self) -> float:
        return self.tuned - self.base


@dataclass(frozen=True)
class SampleSet:
    """The shown answers of one set.

    Attributes:
        rule: how they were chosen, in words.
    """

    title: str
    rule: str
    samples: list[Sample]


def chosen_samples(run: RunFiles) -> list[SampleSet]:
    """Best, typical and worst answer of every set but retention and variants, by the change of its
    metric."""
    shown = [name for name in _answered_sets(run) if source_and_variant(name) is None]
    return [_extremes(run, name) for name in shown if name != RETENTION]


def forgotten_samples(run: RunFiles) -> SampleSet | None:
    """The retention answers that lost most; None where none was scored."""
    if RETENTION not in _answered_sets(run):
        return None
    metric, higher_is_better = chosen_metric(run, RETENTION)
    sorted_samples = _by_gain(run, RETENTION, metric, higher_is_better)
    lost = [one for one in sorted_samples if _gain(one, higher_is_better) < 0]
    rule = (
        f"{len(lost)} of {counted(len(sorted_samples), 'answered example')} scored lower than "
        f"before in {metric_name(metric)}"
    )
    if lost:
        rule += f"; the largest losses are shown, at most {NUM_FORGOTTEN}"
    return SampleSet(set_name(RETENTION), f"{rule}.", lost[:NUM_FORGOTTEN])


def chosen_metric(run: RunFiles, name: str) -> tuple[str, bool]:
    """The metric that answers of a set are compared by, and whether higher is better.

    The set's primary metric; where single answers have none (a loss is no score of an answer), the
    first metric of the set's answers.
    """
    scores = next(answer for answer in run.answers if answer.set == name and answer.scores).scores
    evaluated = run.evaluation.get(name)
    metric = next(iter(scores))
    if evaluated is None:
        return metric, True
    if evaluated.primary in scores:
        metric = evaluated.primary
    change = evaluated.metrics.get(metric)
    return metric, True if change is None else change.higher_is_better


def _answered_sets(run: RunFiles) -> list[str]:
    answered = [answer.set for answer in run.answers if answer.scores]
    return in_order(answered)


def _extremes(run: RunFiles, name: str) -> SampleSet:
    metric, higher_is_better = chosen_metric(run, name)
    samples = _by_gain(run, name, metric, higher_is_better)
    best = next(one for one in samples if one.change == samples[-1].change)
    places = {
        "Best": samples.index(best),
        "Typical": (len(samples) - 1) // 2,
        "Worst": 0,
    }
    shown: dict[int, str] = {}
    for label, place in places.items():
        shown.setdefault(place, label)
    rule = (
        f"Of {counted(len(samples), 'answered example')} ordered by their gain in "
        f"{metric_name(metric)}: the highest, the median and the lowest. Of equal ones "
        "the earlier row."
    )
    chosen = [
        Sample(label, samples[place].answer, metric, samples[place].base, samples[place].tuned)
        for place, label in shown.items()
    ]
    return SampleSet(set_name(name), rule, chosen)


def _by_gain(run: RunFiles, name: str, metric: str, higher_is_better: bool) -> list[Sample]:
    """All answers of a set that have the metric, the one that lost most first."""
    samples = [
        Sample("", answer, metric, answer.scores[metric].base, answer.scores[metric].tuned)
        for answer in run.answers
        if answer.set == name and metric in answer.scores
    ]
    return sorted(samples, key=lambda one: (_gain(one, higher_is_better), one.answer.index))


def _gain(sample: Sample, higher_is_better: bool) -> float:
    return sample.change if higher_is_better else -sample.change
