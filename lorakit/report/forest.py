"""Forest plots: a difference and its interval per row, and where no difference would lie."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from lorakit.report.files import Change, RunFiles
from lorakit.report.svg import INKS, drawing, inline_svg, new_figure
from lorakit.report.verdicts import effect_of, ordered
from lorakit.report.words import change, interval, metric_name, printable, set_name

ROW_HEIGHT = 40  # px: a line of text and the interval under it
FRAME_HEIGHT = 62  # px: the axis with its label
# A shape for each colour: not everybody sees the colours apart.
MARKERS = {"better": "^", "same": "o", "worse": "v"}
AXIS = "\u2190 worse  \u00b7  difference, tuned \u2212 base  \u00b7  better \u2192"
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
    """Rows that share an axis: one unit, one direction."""

    name: str
    title: str
    rows: list[ForestRow]

    @property
    def higher_is_better(self) -> bool:
        return self.rows[0].change.higher_is_better


def forests(run: RunFiles) -> list[Forest]:
    """The loss of all sets on one axis, the scores of each set on another, the rest apart."""
    sets = ordered(run.evaluation)
    scores = {name: _score_names(run, name) for name in sets}
    alone: dict[str, None] = {}
    for name, one in sets.items():
        for metric in one.metrics:
            if metric not in scores[name] and (metric != DERIVED or one.primary == DERIVED):
                alone[metric] = None
    found = [
        Forest(
            f"forest-{number}",
            _capital(metric_name(metric)),
            [
                _row(run, name, metric, set_name(name))
                for name in sets
                if metric in sets[name].metrics
            ],
        )
        for number, metric in enumerate(alone)
    ]
    for number, (name, metrics) in enumerate(scores.items(), len(found)):
        rows = [_row(run, name, metric, metric_name(metric)) for metric in metrics]
        if rows:
            found.append(Forest(f"forest-{number}", f"{set_name(name)}: scores", rows))
    return found


def _score_names(run: RunFiles, name: str) -> list[str]:
    """The metrics of a set that are scores: higher is better, and never past 1."""
    return [
        metric
        for metric, one in run.evaluation[name].metrics.items()
        if one.higher_is_better and all(abs(value or 0) <= 1 for value in (one.base, one.tuned))
    ]


def _row(run: RunFiles, name: str, metric: str, label: str) -> ForestRow:
    one = run.evaluation[name]
    primary = metric == one.primary
    return ForestRow(
        f"{label} (primary)" if primary else label,
        one.metrics[metric],
        one.margin if primary else None,
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def draw_forest(forest: Forest) -> Markup:
    """The plot; its description names every number."""
    with drawing():
        figure = new_figure(FRAME_HEIGHT + ROW_HEIGHT * len(forest.rows))
        axes = figure.add_subplot()
        axes.set_ylim(len(forest.rows) - 0.5, -0.75)
        axes.set_xlim(*_limits(forest))
        axes.axvline(0, color=INKS["muted"], linewidth=1.2)
        for place, row in enumerate(forest.rows):
            _draw_row(axes, row, place, forest.higher_is_better)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(
            "\u2190 worse  \u00b7  difference, tuned \u2212 base  \u00b7  better \u2192"
        )
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
    for row in forest.rows:
        values += [
            value for value in (*row.change.interval, row.change.difference) if value is not None
        ]
        if row.margin is not None:
            values.append(_margin_at(row, forest.higher_is_better))
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    return (low, high) if forest.higher_is_better else (high, low)


def _margin_at(row: ForestRow, higher_is_better: bool) -> float:
    assert row.margin is not None
    return -row.margin if higher_is_better else row.margin


def _draw_row(axes: Axes, row: ForestRow, place: int, higher_is_better: bool) -> None:
    above = place - 0.36
    across = axes.get_yaxis_transform()
    axes.text(0, above, str(printable(row.label)), transform=across, va="center", ha="left")
    numbers = change(row.change.difference)
    low, high = row.change.interval
    if low is not None and high is not None:
        numbers += f"  ({interval(low, high)})"
    axes.text(1, above, numbers, transform=across, va="center", ha="right", color=INKS["muted"])
    if row.margin is not None:
        at = _margin_at(row, higher_is_better)
        axes.plot(
            [at, at],
            [place - 0.15, place + 0.35],
            color=INKS["ink"],
            linestyle=(0, (2, 2)),
            linewidth=1.2,
        )
    if low is None or high is None or row.change.difference is None:
        return
    effect = effect_of(row.change)
    colour = INKS[row.series or effect]
    axes.plot([low, high], [place + 0.1] * 2, color=colour, linewidth=2.2)
    axes.plot(
        [row.change.difference],
        [place + 0.1],
        marker=MARKERS[effect],
        markersize=9,
        color=colour,
        markerfacecolor="none" if effect == "same" else colour,
        markeredgewidth=1.8,
    )
