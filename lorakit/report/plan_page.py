"""The page of `lorakit plan`: what a recipe will take, before anything is trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter

from lorakit.plan.gpus import GPUS, WITHOUT_BFLOAT16, Gpu
from lorakit.recipe import Recipe
from lorakit.report.bars import draw_stacks, inks_of
from lorakit.report.numbers import Fact, of_recipe, of_trained
from lorakit.report.plan_files import (
    GpuFacts,
    PlanFound,
    SetupFacts,
    Stack,
    methods_of,
    phases_of,
)
from lorakit.report.recipes import settings_of
from lorakit.report.render import render, write_page
from lorakit.report.words import (
    NOT_KNOWN,
    capital,
    count,
    counted,
    duration,
    part_name,
    share,
    size,
)

SECTIONS = (
    ("verdict", "Plan"),
    ("numbers", "Numbers"),
    ("memory", "Memory"),
    ("methods", "Methods"),
    ("gpus", "GPUs"),
    ("time", "Time and money"),
    ("fixes", "Fixes"),
    ("recipe", "Recipe"),
    ("next", "Next"),
)


AT_MOST = "at most "


@dataclass(frozen=True)
class Bars:
    """A plot of stacked bars, and its numbers as a table: {part: bytes of each bar}."""

    stacks: list[Stack]
    inks: dict[str, str]
    svg: Markup

    @property
    def rows(self) -> dict[str, list[int | None]]:
        return {part: [one.parts.get(part) for one in self.stacks] for part in self.inks}


@dataclass(frozen=True)
class Fitting:
    """Some GPUs of one size, and what a run leaves of it; below 0: it is so much too small."""

    names: str
    memory: int
    left: int


def write_plan_page(told: Mapping[str, Any], recipe: Recipe, *, source: Path, output: Path) -> Path:
    """Make the page of a plan.

    Args:
        told: the object of `lorakit plan --json`.
        recipe: what was planned.
        source: its file.
        output: where the page goes, in place of another page of lorakit's if need be.

    Raises:
        InputError: another file would be overwritten, or its folder is not there.
    """
    write_page(output, plan_page(told, recipe, source=source), option="--html")
    return output


def plan_page(told: Mapping[str, Any], recipe: Recipe, *, source: Path) -> str:
    """The HTML of a plan."""
    plan = TypeAdapter(PlanFound).validate_python(dict(told))
    phases, methods = phases_of(plan), methods_of(plan)
    limits, inks = _limits(plan), inks_of([*phases, *methods])
    gpus = _fitting(plan, phases) if _is_for_cuda(plan) else []
    shown = {"methods": bool(methods), "gpus": bool(gpus), "fixes": plan.fit is not None}
    return render(
        "plan.html.jinja",
        title=f"{source.stem}: lorakit plan",
        sections=[one for one in SECTIONS if shown.get(one[0], True)],
        name=source.stem,
        source=str(source),
        plan=plan,
        fits=fits(plan, phases),
        headline=headline(plan, phases),
        numbers=list(_numbers(plan, recipe)),
        memory=_bars("memory", "Memory over the run", phases, inks, limits),
        methods=_bars("methods", "Peak memory by method", methods, inks, limits),
        gpus=gpus,
        complete=all(one.complete for one in phases),
        times=list(_times(plan)),
        settings=settings_of(recipe),
        commands=_commands(source, plan),
        yaml=json.dumps,  # a plain value of JSON is one of YAML
    )


def _bars(
    name: str,
    title: str,
    stacks: list[Stack],
    inks: dict[str, str],
    limits: Mapping[str, int],
) -> Bars | None:
    if not stacks:
        return None
    own = {part: ink for part, ink in inks.items() if any(part in one.parts for one in stacks)}
    return Bars(stacks, own, draw_stacks(name, title, stacks, inks, limits))


def _limits(plan: PlanFound) -> dict[str, int]:
    """What must not be exceeded, under the name it has on the plot."""
    if plan.gpu is not None:
        return {f"{_place(plan.gpu)}: {size(plan.gpu.memory_bytes)}": plan.gpu.memory_bytes}
    if plan.fit is not None:
        return {f"budget: {size(plan.fit.limit_bytes)}": plan.fit.limit_bytes}
    return {}


def _place(gpu: GpuFacts) -> str:
    return f"budget on {gpu.name}" if gpu.is_budget else gpu.name


def highest(phases: list[Stack]) -> Stack:
    """The moment that takes most; of a run without any part, nothing."""
    return max(phases, key=lambda one: one.total, default=Stack(name="", parts={}))


def fits(plan: PlanFound, phases: list[Stack]) -> bool | None:
    """Whether the run fits what it was planned for; None where that is not known."""
    if plan.fit is not None:
        return plan.fit.fits
    if plan.gpu is None:
        return None
    if plan.gpu.fits is not None:
        return plan.gpu.fits
    if highest(phases).total > plan.gpu.memory_bytes:
        return False
    return True if phases and all(one.complete for one in phases) else None


def headline(plan: PlanFound, phases: list[Stack]) -> str:
    """The one thing to know."""
    most = highest(phases)
    needed = most.total if plan.fit is None else plan.fit.needed_bytes
    limit = plan.fit.limit_bytes if plan.fit is not None else None
    where = "the budget"
    if plan.gpu is not None:
        limit = limit or plan.gpu.memory_bytes
        where = "the " * plan.gpu.is_budget + _place(plan.gpu)
    fitting = fits(plan, phases)
    if limit is not None and fitting is not None:
        verb = "Fits" if fitting else "Does not fit"
        return f"{verb} {where}: {size(needed)} needed, {size(limit)} there."
    # A part that is not known in one phase may make that one the highest.
    at_least = "" if all(one.complete for one in phases) else "at least "
    if limit is not None:
        return f"{capital(at_least)}{size(needed)} of the {size(limit)} of {where} needed."
    seconds = plan.seconds_of_all
    bound = AT_MOST * plan.is_bound
    return f"Takes {at_least}{size(needed)} of memory" + (
        f" and {bound}{duration(seconds)}." if seconds is not None else "."
    )


def _numbers(plan: PlanFound, recipe: Recipe) -> Iterator[Fact]:
    yield from of_recipe(recipe)
    yield of_trained(plan.parameters)
    if plan.layers is not None:
        yield Fact(
            "Layers adapted",
            count(plan.layers.adapted),
            f"{count(plan.layers.not_adapted)} other weights are not",
        )
    if plan.setup is not None:
        yield _setup(plan.setup)
    train = recipe.train
    yield Fact(
        "Optimizer steps", count(plan.steps), f"of {counted(train.batch_size, train.batch_of)}"
    )
    trained, bound = "", AT_MOST * plan.is_bound
    if plan.tokens and plan.trained_tokens is not None:
        trained = f"{share(plan.trained_tokens, plan.tokens)} of them trained"
    yield Fact("Tokens", f"{bound}{count(plan.tokens)}" if plan.tokens else NOT_KNOWN, trained)
    batch = plan.worst_micro_batch
    if batch is not None:
        members = counted(batch.examples, train.batch_of)
        of = f"{members}, the longest {counted(batch.longest, 'token')}"
        assumed = "" if batch.assumed is None else f"; assumed: {batch.assumed}"
        yield Fact("Largest micro-batch", counted(batch.tokens, "token"), f"{of}{assumed}")
    if (seconds := plan.seconds_of_all) is not None:
        yield Fact("Time", f"{bound}{duration(seconds)}")
    if plan.cost_found is not None:
        yield Fact("Cost", _money(plan))


def _setup(setup: SetupFacts) -> Fact:
    name = setup.gpu or ("this machine's CPU" if setup.device == "cpu" else "a CUDA device")
    again = [
        f"{level} recompute in {counted(layers, 'layer')}"
        for level, layers in setup.recompute.items()
        if level != "none"
    ]
    chosen = [", ".join(again) or "no recompute"]
    if setup.answers_at_a_time is not None:
        chosen.append(f"up to {counted(setup.answers_at_a_time, 'answer')} at a time")
    return Fact("Planned for", f"{name}, {setup.dtype}", "; ".join(chosen))


def _money(plan: PlanFound) -> str:
    assert plan.cost_found is not None
    amount, currency = plan.cost_found.amount, plan.cost_found.currency
    digits = 2 if amount >= 1 or amount == 0 else 4
    return f"{AT_MOST * plan.is_bound}{amount:,.{digits}f} {currency}"


def _is_for_cuda(plan: PlanFound) -> bool:
    """Whether its bytes are a GPU's; a CPU computes in other dtypes and has a heap with holes."""
    return plan.gpu is not None or (plan.devices is not None and plan.devices.type == "cuda")


def _fitting(plan: PlanFound, phases: list[Stack]) -> list[Fitting]:
    """Every known size of GPU, small ones first, with the whole base on it.

    Those without bfloat16 compute in float32, where nothing that was counted is the same.
    """
    needed = highest(phases).total
    elsewhere = plan.weights_by_device or {}
    offloaded = sum(held for where, held in elsewhere.items() if where != "cuda")
    has_bfloat16 = plan.gpu is None or plan.gpu.name not in WITHOUT_BFLOAT16
    by_size: dict[int, list[Gpu]] = {}
    for gpu in GPUS.values():
        if gpu.has_bfloat16 == has_bfloat16:
            by_size.setdefault(gpu.memory_bytes, []).append(gpu)
    weights = plan.memory_bytes.get("weights") or 0
    return [
        Fitting(
            ", ".join(gpu.name for gpu in by_size[memory]),
            memory,
            by_size[memory][0].left(needed + offloaded, weights),
        )
        for memory in sorted(by_size)
        if needed
    ]


def _times(plan: PlanFound) -> Iterator[Fact]:
    """Seconds by part, operations and money, each with how it was found."""
    parts, is_bound = plan.seconds_by_part or {}, plan.is_bound
    seconds = plan.seconds_of_all
    told = NOT_KNOWN if seconds is None else f"{AT_MOST * is_bound}{duration(seconds)}"
    yield Fact("Time in all", told, plan.seconds_found or "")
    for part, seconds in parts.items():
        if part == "answers_at_most":
            told = "if none ends early" if is_bound else "not in the sum: most end sooner"
            yield Fact("Answers", f"at most {duration(seconds)}", told)
        elif part.endswith("_at_most"):
            yield Fact(part_name(part), f"at most {duration(seconds)}", "if none ends early")
        elif not (is_bound and part == "training"):
            yield Fact(part_name(part), duration(seconds))
    for words in plan.seconds_left_out:
        yield Fact("Not in the time", words)
    for part, operations in (plan.flops or {}).items():
        if part == "total":
            told = f"{AT_MOST * is_bound}{_operations(operations)}"
            yield Fact("Operations", told, "multiplications and additions")
    if plan.cost_found is None:
        yield Fact("Cost", NOT_KNOWN, plan.cost_missing or "neither a time nor a price is known")
    else:
        yield Fact("Cost", _money(plan), plan.cost_found.basis)


def _operations(number: float) -> str:
    for unit, scale in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if number >= scale:
            return f"{number / scale:,.3g} {unit}"
    return f"{number:,.0f} FLOP"


def _commands(source: Path, plan: PlanFound) -> list[tuple[str, str]]:
    recipe = shlex.quote(str(source))
    commands = [
        ("See what is trained, and what is wrong with the data", f"lorakit check {recipe}"),
        ("Train", f"lorakit train {recipe}"),
    ]
    if plan.gpu is None:
        planned = f"lorakit plan {recipe} --gpu rtx4090"
        return [("Plan for a GPU", planned), *commands]
    return commands
