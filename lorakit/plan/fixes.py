"""What to change when a run does not fit: every change is planned again, none is guessed.

Changes are tried in the order of what they cost, the cheapest first. Those that make the run fit
alone are offered one by one; where none does, they are put together in that order until it fits,
and whatever turns out not to be needed is taken back.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lorakit.base.placement import SHARE_OF_FREE_MEMORY
from lorakit.errors import InputError
from lorakit.evaluate.worst import answers_are_wanted, measures_anything
from lorakit.plan.duration import Timing
from lorakit.plan.gpus import GPUS
from lorakit.plan.plan import Plan, plan
from lorakit.plan.rows import Sets, up_to_length
from lorakit.plan.worst import ASSUMED_TOKENS
from lorakit.recipe import Recipe, edited

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MIN_RANK = 8
OFFLOADED = ("cpu", "disk")
# Shares of rows whose loss is offered: what few long rows take, all of them are laid out for.
DROPPED = (0.01, 0.05, 0.15)
MIN_TOKENS = 512
# Ways that are shown: the cheapest, and what to take where it is not wanted.
MAX_OFFERED = 4

log = logging.getLogger(__name__)

PlanAgain = Callable[[Recipe, Sets | None], Plan]


@dataclass(frozen=True)
class Change:
    """One key of the recipe.

    Attributes:
        costs: in words, what it takes from speed or quality.
        sets: the rows that are left.
    """

    key: str
    value: Any
    costs: str
    sets: Sets | None = None


@dataclass(frozen=True)
class Fix:
    """Changes that make a run fit.

    Attributes:
        changes: {key: value}, in the order of their cost.
        costs: of each, in words.
        needed: bytes on the device with them.
        slowdown: predicted time over that of the recipe as it is; None where either is unknown.
    """

    changes: dict[str, Any]
    costs: tuple[str, ...]
    needed: int
    slowdown: float | None

    def to_json(self) -> dict[str, Any]:
        """For `lorakit plan --json`."""
        return vars(self) | {"costs": list(self.costs)}


@dataclass(frozen=True)
class Fixes:
    """Whether a run fits, and what can be done.

    Attributes:
        needed, limit: bytes of the device that the run takes as it is, and may take.
        offloaded: bytes of weights that had to live elsewhere for that.
        fits: within the limit, with nothing offloaded unless the recipe asks for it.
        fixes: each makes the run fit; the cheapest first. None do when it is empty.
        nearest: bytes that are needed with the changes that help together, where that is too much.
        larger_gpu: the smallest known GPU that the recipe fits as it is.
    """

    needed: int
    limit: int
    offloaded: int
    fits: bool
    fixes: tuple[Fix, ...] = ()
    nearest: int | None = None
    larger_gpu: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For `lorakit plan --json`."""
        return {
            "needed_bytes": self.needed,
            "limit_bytes": self.limit,
            "offloaded_bytes": self.offloaded,
            "fits": self.fits,
            "fixes": [fix.to_json() for fix in self.fixes],
            "nearest_bytes": self.nearest,
            "larger_gpu": self.larger_gpu,
        }


def fixes_for(
    recipe: Recipe,
    now: Plan,
    *,
    gpu: str | None,
    num_gpus: int = 1,
    budget: int | None,
    timing: Timing,
    most_offered: int = MAX_OFFERED,
) -> Fixes | None:
    """Whether a recipe fits a GPU or a budget, and the smallest changes with which it does.

    Args:
        now: its plan, for that GPU and budget.
        timing: as of that plan; this machine is not timed again.
        most_offered: ways that are looked for.

    Returns:
        None where there is nothing to fit.
    """
    limit = budget if now.gpu is None else now.gpu["memory_bytes"]
    if limit is None:
        return None
    state = Fixes(
        needed=needed_bytes(now),
        limit=limit,
        offloaded=offloaded_bytes(now),
        fits=fits(now, limit, allows_offload=recipe.base.offload in OFFLOADED),
    )
    if state.fits:
        return state
    again = replace(timing, times_machine=False)

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        return plan(
            changed,
            sets=sets,
            reads_rows=False,
            gpu=gpu,
            num_gpus=num_gpus,
            budget=budget,
            timing=again,
        )

    return find_fixes(recipe, now, state, plan_again, most_offered=most_offered)


def find_fixes(
    recipe: Recipe,
    now: Plan,
    state: Fixes,
    plan_again: PlanAgain,
    *,
    most_offered: int = MAX_OFFERED,
) -> Fixes:
    """`state` with the changes that make the run fit.

    Args:
        now: the plan of the recipe as it is.
        plan_again: plans another recipe for the same machine, on the rows it is given.
        most_offered: changes that make it fit alone are looked for up to so many.
    """
    trial = _Trial(recipe, now, state.limit, plan_again)
    changes: list[Change] = []
    alone: list[Change] = []
    for change in possible_changes(recipe, now.sets):
        if len(alone) == most_offered:
            break
        if trial.helps([change]):
            changes.append(change)
            alone += [change] if trial.fits([change]) else []
    nearest = None
    if alone:
        found = [[c] for c in alone]
    else:
        together = trial.put_together(changes)
        found = [together] if trial.fits(together) else []
        nearest = None if found else trial.demand(together)
    return replace(
        state,
        fixes=tuple(trial.fix(chosen) for chosen in found),
        nearest=nearest,
        larger_gpu=None if now.gpu is None else _larger_gpu(now),
    )


def possible_changes(recipe: Recipe, sets: Sets | None) -> list[Change]:
    """Changes that take less memory, the cheapest first; later ones of a key go further."""
    base, adapter, train = recipe.base, recipe.adapter, recipe.train
    found: list[Change] = []
    at_once = recipe.evaluate.max_batch
    while answers_are_wanted(recipe.evaluate) and measures_anything(recipe) and at_once > 1:
        at_once = max(1, at_once // 4)
        costs = "no quality; the evaluation's answers take longer"
        found.append(Change("evaluate.max_batch", at_once, costs))
    if train.optim == "adamw_torch":
        found.append(Change("train.optim", "adamw_8bit", "moments in 8 bits: hardly any"))
    if not train.optim.startswith("paged"):
        found.append(
            Change("train.optim", "paged_adamw_8bit", "moments wait in host memory: a little time")
        )
    packs = base.quantization in ("nf4", "fp4")
    if packs and not base.double_quantization:
        found.append(Change("base.double_quantization", True, "hardly any"))
    if train.gradient_checkpointing is False:
        costs = "the MLPs' forward pass is made twice: some 15 % more time"
        found.append(Change("train.gradient_checkpointing", "selective", costs))
    found += _smaller_micro_batches(recipe, sets)
    if train.gradient_checkpointing is not True:
        costs = "every layer's forward pass is made twice: a third more time"
        found.append(Change("train.gradient_checkpointing", True, costs))
    if base.quantization == "none":
        costs = "4-bit weights: slightly worse answers, weights unpacked in every pass"
        found.append(Change("base.quantization", "nf4", costs))
    elif base.quantization == "int8":
        found.append(Change("base.quantization", "nf4", "4 bits for 8: slightly worse answers"))
    found += _shorter_rows(recipe, sets)
    rank = adapter.r // 2
    while adapter.path is None and rank >= MIN_RANK:
        found.append(Change("adapter.r", rank, f"rank {rank} learns less than {adapter.r}"))
        rank //= 2
    if adapter.path is None and adapter.target_modules == "all-linear":
        costs = "attention alone learns less than all layers"
        found.append(Change("adapter.target_modules", ATTENTION, costs))
    if base.offload == "none":
        costs = "layers come from host memory in every pass: several times slower"
        found.append(Change("base.offload", "auto", costs))
    return found


def _smaller_micro_batches(recipe: Recipe, sets: Sets | None) -> list[Change]:
    longest = _assumed(recipe) if sets is None else int(sets.train.lengths.max())
    tokens = recipe.train.micro_batch_tokens
    costs = "no quality; shorter passes keep the device less busy"
    if tokens is None:
        tokens = 2 * max(MIN_TOKENS, longest)
    found = []
    while tokens // 2 >= max(MIN_TOKENS, longest):
        tokens //= 2
        found.append(Change("train.micro_batch_tokens", tokens, costs))
    return found


def _assumed(recipe: Recipe) -> int:
    return recipe.data.max_length or ASSUMED_TOKENS


def _shorter_rows(recipe: Recipe, sets: Sets | None) -> list[Change]:
    found: list[Change] = []
    if sets is None:
        limit = _assumed(recipe) // 2
        costs = "longer rows are dropped; how many is not known, for they are not here"
        while limit >= MIN_TOKENS:
            found.append(Change("data.max_length", limit, costs))
            limit //= 2
        return found
    lengths = sets.train.lengths
    for share in DROPPED:
        limit = int(np.quantile(lengths, 1 - share, method="lower"))
        dropped = float((lengths > limit).mean())
        if dropped > 0 and limit >= 2 and all(limit != change.value for change in found):
            costs = f"{dropped:.1%} of the rows are longer and would be dropped"
            left = up_to_length(sets, limit)
            found.append(Change("data.max_length", limit, costs, left))
    return found


class _Trial:
    """Plans of the recipe with changes, each made once."""

    def __init__(self, recipe: Recipe, now: Plan, limit: int, plan_again: PlanAgain) -> None:
        self._recipe, self._now, self._limit = recipe, now, limit
        self._plan_again = plan_again
        self._plans: dict[str, Plan | None] = {}

    def plan(self, changes: Sequence[Change]) -> Plan | None:
        """None: these changes cannot work together, here or with this model."""
        values = {change.key: change.value for change in changes}
        key = repr(sorted(values.items(), key=lambda pair: pair[0]))
        if key not in self._plans:
            rows = [change.sets for change in changes if change.sets is not None]
            try:
                recipe = edited(self._recipe, values)
                planned = self._plan_again(recipe, rows[-1] if rows else self._now.sets)
            except InputError as error:
                log.debug("not planned with %s: %s", values, error)
                planned = None
            self._plans[key] = planned
        return self._plans[key]

    def demand(self, changes: Sequence[Change]) -> int:
        """Bytes that are needed; of what cannot work, more than there are anywhere."""
        planned = self.plan(changes)
        return sys.maxsize if planned is None else demanded_bytes(planned)

    def helps(self, changes: Sequence[Change]) -> bool:
        """Whether less is needed; what cannot work does not help."""
        return self.demand(changes) < demanded_bytes(self._now) or self.fits(changes)

    def fits(self, changes: Sequence[Change]) -> bool:
        """Whether the run fits; offloaded only where the recipe or a change asks for it."""
        planned = self.plan(changes)
        allows_offload = self._recipe.base.offload in OFFLOADED or any(
            change.key == "base.offload" for change in changes
        )
        return planned is not None and fits(planned, self._limit, allows_offload=allows_offload)

    def put_together(self, changes: Sequence[Change]) -> list[Change]:
        """Changes in their order until the run fits, without those that are not needed; where it
        never does, those that come nearest."""
        chosen: list[Change] = []
        for change in changes:
            longer = [c for c in chosen if c.key != change.key] + [change]
            if not chosen or self.demand(longer) < self.demand(chosen):
                chosen = longer
            if self.fits(chosen):
                break
        else:
            return chosen
        for change in reversed(chosen[:-1]):
            without = [c for c in chosen if c is not change]
            if self.fits(without):
                chosen = without
        return chosen

    def fix(self, changes: Sequence[Change]) -> Fix:
        planned = self.plan(changes)
        assert planned is not None  # it fits
        before, after = self._now.duration.seconds, planned.duration.seconds
        return Fix(
            {change.key: change.value for change in changes},
            tuple(change.costs for change in changes),
            needed_bytes(planned),
            None if before is None or after is None else after.total / before.total,
        )


def needed_bytes(planned: Plan) -> int:
    """Bytes on the device at the worst moment."""
    return planned.needed if planned.gpu is None else int(planned.gpu["needed"])


def demanded_bytes(planned: Plan) -> int:
    """Bytes that the device would need for everything to be on it."""
    return needed_bytes(planned) + offloaded_bytes(planned)


def offloaded_bytes(planned: Plan) -> int:
    """Bytes of weights that live in host memory or on disk while they do not compute."""
    by_device = planned.memory.by_device
    return sum(
        size for where, size in by_device.items() if where in OFFLOADED and len(by_device) > 1
    )


def fits(planned: Plan, limit: int, *, allows_offload: bool) -> bool:
    """Whether a run fits into so many bytes of its device."""
    return needed_bytes(planned) <= limit and (allows_offload or not offloaded_bytes(planned))


def _larger_gpu(now: Plan) -> str | None:
    """The smallest GPU that holds what the recipe needs as it is."""
    needed = demanded_bytes(now)
    fitting = [
        gpu
        for gpu in GPUS.values()
        if gpu.has_bfloat16
        and needed <= gpu.memory_bytes
        and now.memory.weights <= gpu.memory_bytes * SHARE_OF_FREE_MEMORY
    ]
    return min(fitting, key=lambda gpu: gpu.memory_bytes).name if fitting else None
