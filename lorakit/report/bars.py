"""Stacked bars: bytes by part, one bar below the other, and the limits they must stay under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lorakit.report.plan_files import Stack
from lorakit.report.svg import INKS, RUNS, drawing, inline_svg, new_figure
from lorakit.report.words import part_name, printable, size

ROW_HEIGHT = 54  # px: a line of text and the bar under it
FRAME_HEIGHT = 58  # px: the axis with its label
BAR = 0.4  # of a row
# What lasts, and what a reader looks for; what is left shares the last colour if need be.
COLOURED_FIRST = (
    "weights",
    "quantization_constants",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "working",
)
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def inks_of(stacks: Sequence[Stack]) -> dict[str, str]:
    """{part: colour}, the same in every bar; more parts than colours share the last."""
    parts = list(dict.fromkeys(part for one in stacks for part in one.parts))
    first = [part for part in COLOURED_FIRST if part in parts]
    coloured = [*first, *(part for part in parts if part not in first)]
    inks = {part: RUNS[min(place, len(RUNS) - 1)] for place, part in enumerate(coloured)}
    return {part: inks[part] for part in parts}


def draw_stacks(
    name: str,
    title: str,
    stacks: Sequence[Stack],
    inks: Mapping[str, str],
    limits: Mapping[str, int],
) -> Markup:
    """The plot; its description names every number.

    Args:
        name: see `inline_svg`.
        inks: see `inks_of`.
        limits: {label: bytes}, drawn as dashed lines.
    """
    unit, scale = _unit(max([*(one.total for one in stacks), *limits.values()]))
    with drawing():
        figure = new_figure(FRAME_HEIGHT + ROW_HEIGHT * len(stacks) + 18 * bool(limits))
        axes = figure.add_subplot()
        top = -0.5 - (0.4 if limits else 0)
        axes.set_ylim(len(stacks) - 0.5, top)
        axes.set_xlim(0, 1.03 * max([*(s.total for s in stacks), *limits.values()]) / scale)
        for place, one in enumerate(stacks):
            _draw_stack(axes, one, place, scale, inks)
        for label, limit in limits.items():
            _draw_limit(axes, label, limit / scale, top, len(stacks))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axes.set_xlabel(unit)
        told = "; ".join(_told(one) for one in stacks)
        told += "".join(f"; {printable(label)} {size(limit)}" for label, limit in limits.items())
        return inline_svg(figure, name=name, title=title, description=f"{told}.")


def _unit(largest: int) -> tuple[str, int]:
    return next((unit, scale) for unit, scale in UNITS if largest >= scale or scale == 1)


def _draw_stack(axes: Axes, one: Stack, place: int, scale: int, inks: Mapping[str, str]) -> None:
    """Its name and sum on a line, under it the parts side by side."""
    above, below = place - 0.24, place + 0.18
    across = axes.get_yaxis_transform()
    axes.text(0, above, str(printable(part_name(one.name))), transform=across, va="center")
    total = size(one.total) if one.complete else f"at least {size(one.total)}"
    axes.text(1, above, total, transform=across, va="center", ha="right", color=INKS["muted"])
    start = 0.0
    for part, count in one.parts.items():
        width = count / scale
        # A gap between neighbours: not everybody sees their colours apart.
        axes.barh(below, width, BAR, start, color=INKS[inks[part]], edgecolor="none")
        start += width
        axes.plot([start] * 2, [below - BAR / 2, below + BAR / 2], color=INKS["paper"], linewidth=1)


def _draw_limit(axes: Axes, label: str, at: float, top: float, count: int) -> None:
    # Beside the bars only: across the whole height it would cross the words.
    for place in range(count):
        ends = [place + 0.18 - BAR * 0.62, place + 0.18 + BAR * 0.62]
        axes.plot([at, at], ends, color=INKS["paper"], linewidth=4.5)  # apart from the bar's colour
        axes.plot([at, at], ends, color=INKS["ink"], linestyle=(0, (3, 1.5)), linewidth=1.8)
    right = at > sum(axes.get_xlim()) / 2
    axes.text(
        at, top + 0.12, str(printable(label)), va="center", ha="right" if right else "left",
        fontweight="bold",
    )  # fmt: skip


def _told(one: Stack) -> str:
    parts = ", ".join(
        f"{printable(part_name(part))} {size(count)}" for part, count in one.parts.items()
    )
    at_least = "" if one.complete else "at least "
    return f"{printable(part_name(one.name))} {at_least}{size(one.total)}: {parts}"
