"""Tuned against tuned: two runs on the very same rows, where they answered the same ones.

Runs that answered different rows differ by those rows as well: of them nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorakit.evaluate.statistics import ALPHA, central_interval, holm, p_value, resampled_means
from lorakit.report.evaluation_files import Answer, Change, Scores
from lorakit.report.files import RunFiles
from lorakit.report.order import in_order
from lorakit.report.verdicts import Effect, effect_of

Row = tuple[int, str, str]


@dataclass(frozen=True)
class Pair:
    """One metric of two runs on one set; `change.base` is the first run's, `.tuned` the second's.

    Attributes:
        first, second: places of the runs in the list given.
        p_value: of no difference; corrected: by Holm, for all pairs of the page with enough answers
            to tell.
    """

    first: int
    second: int
    set: str
    metric: str
    change: Change
    p_value: float
    corrected: float = 1.0

    @property
    def effect(self) -> Effect:
        """Which way the difference goes, if it is there after the correction."""
        effect = effect_of(self.change)
        return effect if effect == "few" or self.corrected < ALPHA else "same"


def pairs_of(runs: Sequence[RunFiles]) -> list[Pair]:
    """Every later run against the first one, in every metric of answers to the same rows."""
    rows = [_rows_by_set(run.answers) for run in runs]
    pairs = [
        _pair(runs, second, name, metric, rows[0][name], rows[second][name])
        for name in in_order(rows[0])
        for second in range(1, len(runs))
        if rows[second].get(name, {}).keys() == rows[0][name].keys()
        for metric in _shared_metrics([*rows[0][name].values(), *rows[second][name].values()])
    ]
    tested = [place for place, one in enumerate(pairs) if one.change.enough]
    for place, value in zip(tested, holm([pairs[i].p_value for i in tested]), strict=True):
        pairs[place] = replace(pairs[place], corrected=value)
    return pairs


def _rows_by_set(answers: Sequence[Answer]) -> dict[str, dict[Row, dict[str, Scores]]]:
    found: dict[str, dict[Row, dict[str, Scores]]] = {}
    for answer in answers:
        row = (answer.index, answer.prompt, answer.reference)
        found.setdefault(answer.set, {})[row] = answer.scores
    return found


def _shared_metrics(scores: Sequence[dict[str, Scores]]) -> list[str]:
    """The metrics that every answer has."""
    return [metric for metric in scores[0] if all(metric in one for one in scores)]


def _pair(
    runs: Sequence[RunFiles],
    second: int,
    name: str,
    metric: str,
    ours: dict[Row, dict[str, Scores]],
    theirs: dict[Row, dict[str, Scores]],
) -> Pair:
    values_KE = np.array(
        [[rows[row][metric].tuned for row in ours] for rows in (ours, theirs)], dtype=np.float64
    )
    count = values_KE.shape[1]
    before, after = map(float, values_KE.mean(axis=1))
    differences_E = values_KE[1] - values_KE[0]
    (means_R,) = resampled_means(differences_E[None], np.ones(count))
    evaluated = runs[0].evaluation.get(name)
    known = None if evaluated is None else evaluated.metrics.get(metric)
    change = Change(
        base=before,
        tuned=after,
        difference=float(differences_E.mean()),
        interval=central_interval(means_R),
        examples=count,
        higher_is_better=True if known is None else known.higher_is_better,
    )
    return Pair(0, second, name, metric, change, p_value(means_R))
