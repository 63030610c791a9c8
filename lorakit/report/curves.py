"""Curves over the steps of one run or several, and the histogram of lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lorakit.report.data_files import SetFacts
from lorakit.report.svg import INKS, drawing, inline_svg, new_figure
from lorakit.report.training_files import LoggedStep, PlanFacts
from lorakit.report.words import amount, count, size

HEIGHT = 250  # px
MAX_POINTS = 400  # about one per px of the plot
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))


@dataclass(frozen=True)
class Line:
    """Points of one curve, and how it is drawn; `label` is shown where there are several."""

    label: str
    steps: list[int]
    values: list[float]
    ink: str
    dashes: object = "-"
    marked: bool = False


@dataclass(frozen=True)
class Curve:
    """A plot over steps.

    Attributes:
        ticks: writes a value beside the vertical axis; None: with as many decimals as it needs.
        level: a horizontal line with its label.
    """

    name: str
    title: str
    lines: list[Line]
    ticks: Callable[[float], str] | None = None
    from_zero: bool = False
    level: tuple[float, str] | None = None


def curves(metrics: Sequence[LoggedStep], plan: PlanFacts | None) -> list[Curve]:
    """Loss, learning rate, memory and speed of a run."""
    steps = [line.step for line in metrics]
    validated = [line for line in metrics if line.validation_loss is not None]
    losses = [Line("train", steps, [line.loss for line in metrics], "tuned")]
    if validated:
        known = [line.validation_loss for line in validated if line.validation_loss is not None]
        losses.append(
            Line("validation", [line.step for line in validated], known, "ink", DASHES[1], True)
        )
    unit, scale = memory_unit(metrics)
    peak = None if plan is None else plan.memory_bytes.get("peak")
    return [
        Curve("loss", "Loss per trained token", losses),
        Curve(
            "learning-rate",
            "Learning rate",
            [Line("", steps, [line.learning_rate for line in metrics], "tuned")],
            ticks=short_rate,
            from_zero=True,
        ),
        Curve(
            "memory",
            f"Peak memory so far, {unit}",
            [Line("", steps, [line.peak_bytes / scale for line in metrics], "tuned")],
            from_zero=True,
            level=None if peak is None else (peak / scale, f"plan: {size(peak)}"),
        ),
        Curve(
            "speed",
            "Tokens per second",
            [Line("", steps, [line.tokens_per_second for line in metrics], "tuned")],
            ticks=thousands,
            from_zero=True,
        ),
    ]


def is_policy(metrics: Sequence[LoggedStep]) -> bool:
    """Whether rewards were logged."""
    return any(line.reward is not None for line in metrics)


def overlaid_curves(runs: Sequence[tuple[str, str, Sequence[LoggedStep]]]) -> list[Curve]:
    """The same plots with a line for each run.

    Args:
        runs: (label, colour, logged steps) of every run that logged any.
    """
    unit, scale = memory_unit([line for _, _, metrics in runs for line in metrics])
    drawn: list[tuple[str, str, Callable[[LoggedStep], float | None], Any]] = [
        ("loss", "Train loss per trained token", lambda line: line.loss, None),
        ("reward", "Reward", lambda line: line.reward, None),
        ("validation", "Validation loss", lambda line: line.validation_loss, None),
        ("learning-rate", "Learning rate", lambda line: line.learning_rate, short_rate),
        ("memory", f"Peak memory so far, {unit}", lambda line: line.peak_bytes / scale, None),
        ("speed", "Tokens per second", lambda line: line.tokens_per_second, thousands),
    ]
    found = []
    for name, title, value_of, ticks in drawn:
        lines = []
        for place, (label, ink, metrics) in enumerate(runs):
            if name == "loss" and is_policy(metrics):  # near 0 whatever is learned
                continue
            points = [(line.step, value_of(line)) for line in metrics]
            known = [(step, value) for step, value in points if value is not None]
            if known:
                steps, values = map(list, zip(*known, strict=True))
                dashes = DASHES[place % len(DASHES)]
                lines.append(Line(label, steps, values, ink, dashes, name == "validation"))
        if lines:
            found.append(
                Curve(name, title, lines, ticks, name not in {"loss", "reward", "validation"})
            )
    return found


def memory_unit(metrics: Sequence[LoggedStep]) -> tuple[str, int]:
    """The unit that the peak is a handy number of, and its bytes."""
    highest = max(line.peak_bytes for line in metrics)
    return ("GiB", 2**30) if highest >= 2**30 else ("MiB", 2**20)


def thousands(value: float) -> str:
    """2100.4 -> `2,100`."""
    return f"{value:,.0f}"


def short_rate(rate: float) -> str:
    """0.00015 -> `1.5e-4`."""
    mantissa, _, exponent = f"{rate:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if rate else "0"


def draw_curve(curve: Curve) -> Markup:
    """The plot; its description says where each line begins, ends and turns."""
    with drawing():
        figure = new_figure(HEIGHT)
        axes = figure.add_subplot()
        for line in curve.lines:
            _draw_line(axes, line)
        if curve.level is not None:
            at, label = curve.level
            axes.axhline(at, color=INKS["ink"], linestyle=DASHES[1], linewidth=1.2)
            axes.annotate(label, (0, at), (4, 3), ("axes fraction", "data"), "offset points")
        if curve.from_zero:
            axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
        if len(curve.lines) > 1:
            axes.legend(frameon=False, handlelength=3, labelcolor=INKS["ink"])
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _write_ticks(axes, curve.ticks)
        return inline_svg(
            figure, name=f"curve-{curve.name}", title=curve.title, description=_told(curve)
        )


def _draw_line(axes: Axes, line: Line) -> None:
    steps, values = thinned(line.steps, line.values)
    marker = "o" if line.marked or len(steps) == 1 else None
    axes.plot(
        steps,
        values,
        label=line.label,
        color=INKS[line.ink],
        linestyle=line.dashes,
        linewidth=1.8,
        marker=marker,
        markersize=5,
    )


def _write_ticks(axes: Axes, ticks: Callable[[float], str] | None) -> None:
    if ticks is None:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: ticks(value)))


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MAX_POINTS points, each the mean of as many neighbours as that takes."""
    parts = min(len(steps), MAX_POINTS)
    return tuple(
        [float(part.mean()) for part in np.array_split(np.asarray(row, dtype=np.float64), parts)]
        for row in (steps, values)
    )  # type: ignore[return-value]


def _told(curve: Curve) -> str:
    told = []
    say = curve.ticks or amount
    for line in curve.lines:
        lowest, highest = min(line.values), max(line.values)
        name = f"{line.label}: " if line.label else ""
        told.append(
            f"{name}{say(line.values[0])} at step {count(line.steps[0])}, "
            f"{say(line.values[-1])} at step {count(line.steps[-1])}, "
            f"between {say(lowest)} and {say(highest)}"
        )
    if curve.level is not None:
        told.append(curve.level[1])
    return "; ".join(told) + "."


def draw_histogram(name: str, facts: SetFacts) -> Markup:
    """Examples by length, and the longest that was allowed if it is anywhere near."""
    edges, counts = facts.lengths.edges, facts.lengths.counts
    with drawing():
        figure = new_figure(HEIGHT - 30)
        axes = figure.add_subplot()
        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=INKS["base"], edgecolor="none")
        if facts.max_length is not None and is_near_limit(facts):
            axes.axvline(facts.max_length, color=INKS["ink"], linestyle=DASHES[1], linewidth=1.2)
        axes.grid(axis="y")
        axes.set_xlim(left=0)
        axes.set_xlabel("tokens per example")
        axes.set_ylabel("examples")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        most = int(np.argmax(counts))
        return inline_svg(
            figure,
            name=f"lengths-{name}",
            title="Lengths of the examples",
            description=(
                f"{count(sum(counts))} examples of up to {count(facts.longest)} tokens; most of "
                f"them, {count(counts[most])}, have {count(edges[most] + 1)} to "
                f"{count(edges[most + 1])} tokens."
            ),
        )


def is_near_limit(facts: SetFacts) -> bool:
    """Whether max_length can be shown beside the lengths without squeezing them."""
    return facts.max_length is not None and facts.max_length <= 1.5 * facts.longest
