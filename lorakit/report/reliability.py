"""Reliability diagrams: how often a model is right where it is so and so sure."""

from __future__ import annotations

from markupsafe import Markup
from matplotlib.ticker import PercentFormatter

from lorakit.report.curves import DASHES
from lorakit.report.proof_files import Bin, Calibration, Reliability
from lorakit.report.svg import INKS, drawing, inline_svg, new_figure
from lorakit.report.words import share

HEIGHT = 280  # px
# Of all positions: a bin with fewer says little, and would draw the eye.
MIN_SHARE = 0.002


def draw_reliability(name: str, one: Calibration) -> Markup:
    """Accuracy over confidence of base and tuned; on the dashed line both are the same."""
    with drawing():
        figure = new_figure(HEIGHT)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=INKS["muted"], linestyle=DASHES[1], linewidth=1.2)
        for label, model, dashes, marker in (
            ("base", one.base, DASHES[2], "s"),
            ("tuned", one.tuned, DASHES[0], "o"),
        ):
            bins = shown_bins(model)
            axes.plot(
                [each.confidence for each in bins],
                [each.accuracy for each in bins],
                label=label,
                color=INKS[label],
                linestyle=dashes,
                linewidth=1.8,
                marker=marker,
                markersize=5,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.grid()
        axes.set_xlabel("confidence in the first choice")
        axes.set_ylabel("right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.legend(frameon=False, handlelength=3, labelcolor=INKS["ink"], loc="upper left")
        return inline_svg(
            figure,
            name=f"reliability-{name}",
            title="Accuracy over confidence",
            description=f"{_told('base', one.base)}; {_told('tuned', one.tuned)}.",
        )


def shown_bins(one: Reliability) -> list[Bin]:
    """The bins that hold enough positions to be drawn."""
    total = sum(each.count for each in one.bins)
    return [each for each in one.bins if each.count >= MIN_SHARE * total]


def _told(label: str, one: Reliability) -> str:
    return (
        f"{label}: {share(one.confidence, 1)} sure, {share(one.accuracy, 1)} right, expected "
        f"calibration error {share(one.error, 1)}"
    )
