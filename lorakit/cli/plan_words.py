"""Time, money and what would make a run fit, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.cli.output import console, counted
from lorakit.sizes import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lorakit.plan.duration import Duration
    from lorakit.plan.fixes import Fixes
    from lorakit.plan.result import Plan

ELSEWHERE = {"cpu": "in host memory", "disk": "on disk"}


def setup_lines(plan: Plan) -> Iterator[str]:
    """What it was planned for, and how each step is divided there."""
    setup = plan.setup
    yield f"{'planned for':<15} {place_of(plan)}, in {setup['dtype']}"
    again = [
        f"{level} recompute in {counted(layers, 'layer')}"
        for level, layers in setup["recompute"].items()
        if level != "none"
    ]
    laid_out = "packed" if setup["packed"] else "padded"
    yield (
        f"{'each step':<15} micro-batches of up to {setup['micro_batch_tokens']:,} tokens, "
        f"{laid_out}; {', '.join(again) or 'no recompute'}"
    )
    if setup["answers_at_a_time"] is not None:
        yield f"{'evaluation':<15} up to {counted(setup['answers_at_a_time'], 'answer')} at a time"


def step_lines(plan: Plan) -> Iterator[str]:
    """How many steps there are, and what they see."""
    bound = "at most " if plan.peaks.rollouts is not None else ""
    steps = f"of {counted(plan.setup['batch_size'], plan.setup['batch_of'])}"
    for name, count, before, after in (
        ("steps", plan.steps, "", f" {steps}"),
        ("tokens", plan.tokens, bound, ""),
        ("trained tokens", plan.trained_tokens, bound, ""),
    ):
        yield f"{name:<15} " + ("not known yet" if count is None else f"{before}{count:,}{after}")


def place_of(plan: Plan) -> str:
    """`rtx3060`, `a budget of 7.45 GiB on this machine's CPU`."""
    setup = plan.setup
    name = setup["gpu"] or ("this machine's CPU" if setup["device"] == "cpu" else "a CUDA device")
    if not setup["is_budget"]:
        return str(name)
    return f"a budget of {size(setup['memory_bytes'])} on {name}"


def show_fixes(fixes: Fixes, plan: Plan) -> None:
    """What would make it fit, the cheapest first."""
    out = console()
    place, needed, limit = place_of(plan), size(fixes.needed), size(fixes.limit)
    if fixes.fits:
        out.print(f"fits {place}: {needed} are needed, {limit} there")
        return
    hosted = ""
    if fixes.offloaded:
        *_, elsewhere = (
            told for where, told in ELSEWHERE.items() if where in plan.memory.by_device
        )
        hosted = f", {size(fixes.offloaded)} more {elsewhere} (slow)"
    out.print(f"does not fit {place}: {needed} are needed, {limit} are there{hosted}")
    for number, fix in enumerate(fixes.fixes, 1):
        slower = "" if fix.slowdown is None else f", time x{fix.slowdown:.2f}"
        out.print(f"{number}. {size(fix.needed)} with{slower}")
        for (key, value), costs in zip(fix.changes.items(), fix.costs, strict=True):
            out.print(f"     {f'{key}: {value}':<44} {costs}")
    if not fixes.fixes:
        least = "" if fixes.nearest is None else f": at best {size(fixes.nearest)} are needed"
        out.print(f"no change that is known makes it fit{least}")
    if fixes.larger_gpu is not None:
        out.print(f"as it is, it fits on {fixes.larger_gpu}")


def show_duration(duration: Duration) -> None:
    """Operations, seconds by part, and money."""
    out, seconds = console(), duration.seconds
    bound = "at most " if duration.is_bound else ""
    if duration.flops is not None:
        out.print(f"{'operations':<15} {bound}{duration.flops['total']:.3g}")
    told = ""
    if seconds is not None:
        told = f"{bound}{human_seconds(seconds.expected)}"
    out.print(f"{'time':<15} {told} ({duration.how})")
    if seconds is not None:
        for part, value in seconds.to_json().items():
            if part == "answers_at_most":
                more = "" if seconds.is_bound else " more"
                words = f"at most {human_seconds(value)}{more}, if no answer ends early"
                out.print(f"  {'answers':<13} {words if value else 'none'}")
            elif part.endswith("_at_most"):
                words = f"at most {human_seconds(value)}, if no completion ends early"
                out.print(f"  {part.removesuffix('_at_most'):<13} {words}")
            elif not (seconds.is_bound and part == "training"):
                out.print(f"  {part.replace('_', ' '):<13} {human_seconds(value)}")
    for words in duration.left_out:
        out.print(f"  not in it     {words}")
    cost = duration.cost
    if cost is not None:
        out.print(f"{'cost':<15} {bound}{cost.amount:.2f} {cost.currency}: {cost.basis}")
    elif duration.no_cost is not None:
        out.print(f"{'cost':<15} not known: {duration.no_cost}")


def human_seconds(seconds: float) -> str:
    """95 -> `95 s`, 5400 -> `1 h 30 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
