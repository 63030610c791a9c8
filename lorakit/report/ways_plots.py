"""Plots of the ways to answer: cost against quality, and what calls have cost in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lorakit.compare.recommend import NOTHING_TO_REPAY, never_repaid
from lorakit.report.curves import DASHES
from lorakit.report.svg import INKS, RUNS, drawing, inline_svg, new_figure
from lorakit.report.ways_files import Way, WaysFile
from lorakit.report.words import amount, capital, interval, metric_name, printable

HEIGHT = 300  # px
# A shape for each way: not everybody sees the colours apart.
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
WIDE = 20  # costs that differ by more are drawn on a logarithmic axis


@dataclass(frozen=True)
class Point:
    """A way as it is plotted: its letter, colour and shape."""

    name: str
    way: Way
    letter: str
    series: str
    marker: str
    dashes: object


def points_of(found: WaysFile) -> list[Point]:
    """The measured ways in their order; of more than there are colours, those that come first."""
    return [
        Point(
            name,
            way,
            chr(ord("A") + place),
            RUNS[place],
            MARKERS[place],
            DASHES[place % len(DASHES)],
        )
        for place, (name, way) in enumerate(list(found.ways.items())[: len(RUNS)])
    ]


def draw_scatter(found: WaysFile, points: Sequence[Point]) -> Markup | None:
    """Quality over the cost of 1,000 calls; None where no cost is known."""
    shown = [(one, cost) for one in points if (cost := one.way.cost_per_1000_calls) is not None]
    if not shown or found.cost_basis is None:
        return None
    metric = found.primary
    with drawing():
        figure = new_figure(HEIGHT)
        axes = figure.add_subplot()
        _scale_costs(axes, [cost for _, cost in shown])
        for one, cost in shown:
            quality = one.way.metrics[metric]
            colour = INKS[one.series]
            axes.plot([cost, cost], quality.interval, color=colour, linewidth=1.8)
            axes.plot([cost], [quality.mean], one.marker, color=colour, markersize=8)
            axes.annotate(
                one.letter, (cost, quality.mean), (7, 4), textcoords="offset points", color=colour,
                fontweight="bold",
            )  # fmt: skip
        if not found.is_higher_better(metric):
            axes.invert_yaxis()
        axes.grid(axis="y")
        axes.set_xlabel(f"{printable(found.cost_basis.unit)} for 1,000 calls")
        axes.set_ylabel(str(printable(metric_name(metric))))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        told = "; ".join(
            f"{printable(one.way.title)} {amount(one.way.metrics[metric].mean)}"
            f" ({interval(*one.way.metrics[metric].interval)}) for {amount(cost)}"
            for one, cost in shown
        )
        return inline_svg(figure, name="scatter", title="Quality over cost", description=f"{told}.")


def draw_totals(found: WaysFile, points: Sequence[Point]) -> Markup | None:
    """What calls have cost in all, set-up included; None where that is not known of two ways."""
    known = [
        (one, one.way.setup.cost, one.way.cost_per_1000_calls / 1000)
        for one in points
        if one.way.setup.cost is not None and one.way.cost_per_1000_calls
    ]
    if len(known) < 2 or found.cost_basis is None:
        return None
    repaid = [calls for calls in found.break_even.calls.values() if calls]
    most = 10 * max([found.calls or 1, *repaid])
    calls = np.geomspace(max(1, min([most, *repaid]) / 30), most, 60)
    with drawing():
        figure = new_figure(HEIGHT)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for one, setup, call in known:
            axes.plot(
                calls, setup + call * calls, color=INKS[one.series], linestyle=one.dashes,
                linewidth=1.8, label=f"{one.letter}  {printable(one.way.title)}",
            )  # fmt: skip
        for number in repaid:
            axes.axvline(number, color=INKS["muted"], linestyle=DASHES[2], linewidth=1.2)
        axes.legend(frameon=False, handlelength=3, labelcolor=INKS["ink"])
        axes.set_xlabel("calls")
        axes.set_ylabel(f"{printable(found.cost_basis.unit)} in all")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.grid(axis="both")
        told = "; ".join(
            f"{printable(one.way.title)} {amount(setup)} once and {amount(call)} a call"
            for one, setup, call in known
        )
        return inline_svg(figure, name="totals", title="Cost in all", description=f"{told}.")


def _scale_costs(axes: Axes, costs: Sequence[float]) -> None:
    """Room on both sides; logarithmic where linear would squeeze the cheap ones together."""
    if min(costs) > 0 and max(costs) > WIDE * min(costs):
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 2, max(costs) * 2)
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, 1.15 * max(costs) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """1500000 -> `1.5M`, 0.00001 -> `1e-5`."""
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:,.4g}{unit}"
    if 0 < value < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def break_even_said(found: WaysFile) -> list[str]:
    """From how many calls on tuning has paid, in sentences."""
    against = found.break_even.against
    if "break_even" not in found.model_fields_set:
        return []
    if against is None:
        return [f"{capital(NOTHING_TO_REPAY)}."]
    titles: Mapping[str, str] = {name: found.title(name) for name in found.break_even.calls}
    return [
        f"{never_repaid(titles[name], found.title(against))}."
        if calls is None
        else f"{titles[name]} has cost less than {found.title(against)} from {calls:,} calls on."
        for name, calls in found.break_even.calls.items()
    ]
