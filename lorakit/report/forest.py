"""Forest plots: a difference and its interval per row, and where no difference would lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from lorakit.data.variants import source_and_variant
from lorakit.report.evaluation_files import Change, SetEvaluation
from lorakit.report.files import RunFiles
from lorakit.report.svg import INKS, drawing, inline_svg, new_figure
from lorakit.report.verdicts import effect_of
from lorakit.report.words import capital, change, interval, metric_name, printable, set_name

ROW_HEIGHT = 44  # px: a line of text and the interval under it
FRAME_HEIGHT = 62  # px: the axis with its label
# A shape for each colour: not everybody sees the colours apart.
MARKERS = {"better": "^", "same": "o", "worse": "v", "few": "s", "far": "D"}
NOTHING_SHOWN = {"same", "few", "far"}
AXIS = "difference, tuned \u2212 base"
# Shown in its place is the loss, of which it is the exponential, unless a verdict rests on it.
DERIVED = "perplexity"


@dataclass(frozen=True)
class ForestRow:
    """One line; `margin` is how much may be lost, where that was said."""

    label: str
    change: Change
    margin: float | None = None
    series: str | None = None


@dataclass(frozen=True)
class Forest:
    """Rows that share an axis: one unit, one direction.

    Attributes:
        span: the rows whose numbers the axis has to hold: plots with the same span can be compared.
        axis: what the axis shows.
    """

    name: str
    title: str
    rows: list[ForestRow]
    span: list[ForestRow]
    axis: str = AXIS

    @property
    def higher_is_better(self) -> bool:
        return self.rows[0].change.higher_is_better


def forests(run: RunFiles) -> list[Forest]:
    """The loss of all sets on one axis, the scores of each set on another, the rest apart."""
    sets = run.evaluation
    found = []
    for metric in unscored_metrics([run]):
        rows = [
            _row(one, metric, set_name(name)) for name, one in sets.items() if metric in one.metrics
        ]
        found.append((capital(metric_name(metric)), rows, rows))
    scores = {
        name: [
            _row(one, metric, metric_name(metric))
            for metric in one.metrics
            if is_score(one, metric)
        ]
        for name, one in sets.items()
        if source_and_variant(name) is None  # what those lose has a section of its own
    }
    together = [row for rows in scores.values() for row in rows]
    found += [
        (f"{set_name(name)}: scores", rows, together) for name, rows in scores.items() if rows
    ]
    return [Forest(f"forest-{place}", *one) for place, one in enumerate(found)]


def unscored_metrics(runs: Sequence[RunFiles]) -> list[str]:
    """What needs an axis of its own; of two that say the same, the one a verdict rests on."""
    evaluated = [one for run in runs for one in run.evaluation.values()]
    decisive = {one.primary for one in evaluated}
    named = [
        name
        for one in evaluated
        for name, change in one.metrics.items()
        if not is_score(one, name) and not change.distance
    ]
    return [name for name in dict.fromkeys(named) if name != DERIVED or name in decisive]


def is_score(one: SetEvaluation, metric: str) -> bool:
    """Whether a metric is one of those where higher is better and 1 is the most."""
    change = one.metrics[metric]
    values = (change.base, change.tuned)
    return change.higher_is_better and all(abs(value or 0) <= 1 for value in values)


def _row(one: SetEvaluation, metric: str, label: str) -> ForestRow:
    primary = metric == one.primary
    return ForestRow(
        f"{label} (primary)" if primary else label,
        one.metrics[metric],
        one.margin if primary else None,
    )


def draw_forest(forest: Forest) -> Markup:
    """The plot; its description names every number."""
    with drawing():
        figure = new_figure(FRAME_HEIGHT + ROW_HEIGHT * len(forest.rows))
        axes = figure.add_subplot()
        axes.set_ylim(len(forest.rows) - 0.5, -0.5)
        axes.set_xlim(*_limits(forest))
        for place, row in enumerate(forest.rows):
            _draw_row(axes, row, place)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"\u2190 worse  \u00b7  {printable(forest.axis)}  \u00b7  better \u2192")
        return inline_svg(
            figure,
            name=forest.name,
            title=f"{forest.title}: differences with 95 % intervals",
            description="; ".join(map(_told, forest.rows)) + ".",
        )


def _told(row: ForestRow) -> str:
    allowed = "" if row.margin is None else f", {row.margin:g} may be lost"
    numbers = f"{change(row.change.difference)}, {interval(*row.change.interval)}"
    return f"{printable(row.label)} {numbers}{allowed}"


def _limits(forest: Forest) -> tuple[float, float]:
    """Room for every interval, zero and the margins; worse on the left, whatever that is."""
    values = [0.0]
    for row in forest.span:
        shown = (*row.change.interval, row.change.difference, _margin_at(row))
        values += [value for value in shown if value is not None]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    return (low, high) if forest.higher_is_better else (high, low)


def _margin_at(row: ForestRow) -> float | None:
    """The difference that would just be allowed."""
    if row.margin is None:
        return None
    return -row.margin if row.change.higher_is_better else row.margin


def _draw_row(axes: Axes, row: ForestRow, place: int) -> None:
    """Words and numbers on one line; under it the interval, beside zero and the margin."""
    above, below = place - 0.27, place + 0.14
    across = axes.get_yaxis_transform()
    numbers = change(row.change.difference)
    low, high = row.change.interval
    if low is not None and high is not None:
        numbers += f"  ({interval(low, high)})"
    axes.text(0, above, str(printable(row.label)), transform=across, va="center", ha="left")
    axes.text(1, above, numbers, transform=across, va="center", ha="right", color=INKS["muted"])
    # Not across the whole height: it would cross the words.
    ends = [below - 0.2, below + 0.2]
    axes.plot([0, 0], ends, color=INKS["muted"], linewidth=1.5)
    allowed = _margin_at(row)
    if allowed is not None:
        axes.plot([allowed] * 2, ends, color=INKS["ink"], linestyle=(0, (2, 1.5)), linewidth=1.5)
    if low is None or high is None or row.change.difference is None:
        return
    effect = effect_of(row.change)
    colour = INKS[row.series or ("same" if effect in NOTHING_SHOWN else effect)]
    axes.plot([low, high], [below, below], color=colour, linewidth=2.2)
    axes.plot(
        [row.change.difference],
        [below],
        marker=MARKERS[effect],
        markersize=9,
        color=colour,
        markerfacecolor="none" if effect in NOTHING_SHOWN else colour,
        markeredgewidth=1.8,
    )
