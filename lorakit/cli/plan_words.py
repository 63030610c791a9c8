"""Time, money and what would make a run fit, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.cli.output import console, human_bytes

if TYPE_CHECKING:
    from lorakit.plan.duration import Duration
    from lorakit.plan.fixes import Fixes


def show_fixes(fixes: Fixes) -> None:
    """What would make it fit, the cheapest first."""
    out = console()
    if fixes.fits:
        out.print(f"fits: {human_bytes(fixes.needed)} are needed, {human_bytes(fixes.limit)} there")
        return
    hosted = f", {human_bytes(fixes.offloaded)} more in host memory (slow)" * bool(fixes.offloaded)
    needed, limit = human_bytes(fixes.needed), human_bytes(fixes.limit)
    out.print(f"does not fit: {needed} are needed, {limit} are there{hosted}")
    for number, fix in enumerate(fixes.fixes, 1):
        slower = "" if fix.slowdown is None else f", time x{fix.slowdown:.2f}"
        out.print(f"{number}. {human_bytes(fix.needed)} with{slower}")
        for (key, value), costs in zip(fix.changes.items(), fix.costs, strict=True):
            out.print(f"     {f'{key}: {value}':<44} {costs}")
    if fixes.nearest is not None:
        out.print(f"all changes that help together still need {human_bytes(fixes.nearest)}")
    if fixes.larger_gpu is not None:
        out.print(f"as it is, it fits on {fixes.larger_gpu}")


def show_duration(duration: Duration) -> None:
    """Operations, seconds by part, and money."""
    out = console()
    if duration.flops is not None:
        out.print(f"{'operations':<15} {duration.flops['total']:.3g}")
    seconds = duration.seconds
    out.print(
        f"{'time':<15} {'' if seconds is None else human_seconds(seconds.total)} ({duration.how})"
    )
    if seconds is not None:
        for part, value in seconds.to_json().items():
            if part == "answers_at_most":
                words = f"at most {human_seconds(value)} more, if no answer ends early"
                out.print(f"  {'answers':<13} {words if value else 'none'}")
            else:
                out.print(f"  {part:<13} {human_seconds(value)}")
    for words in duration.left_out:
        out.print(f"  not in it     {words}")
    cost = duration.cost
    if cost is not None:
        out.print(f"{'cost':<15} {cost.amount:.2f} {cost.currency}: {cost.basis}")
    elif duration.no_cost is not None:
        out.print(f"{'cost':<15} not known: {duration.no_cost}")


def human_seconds(seconds: float) -> str:
    """95 -> `95 s`, 5400 -> `1 h 30 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
