"""What to change when a run does not fit: every change is planned again, none is guessed.

Changes are tried in the order of what they cost, the cheapest first. Those that make the run fit
alone are offered one by one; where none does, they are put together in that order until it fits,
and whatever turns out not to be needed is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lorakit.base.placement import SHARE_OF_FREE_MEMORY
from lorakit.plan.built import Workbench
from lorakit.plan.changes import Change, possible_changes
from lorakit.plan.duration import Timing
from lorakit.plan.gpus import GPUS
from lorakit.plan.plan import Plan
from lorakit.plan.trial import (
    OFFLOADED,
    Fix,
    PlanAgain,
    Trial,
    demanded_bytes,
    fits,
    needed_bytes,
    offloaded_bytes,
    same_machine,
)
from lorakit.recipe import Recipe

# Ways that are shown: the cheapest, and what to take where it is not wanted.
MAX_OFFERED = 4


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
    bench: Workbench | None = None,
    most_offered: int = MAX_OFFERED,
) -> Fixes | None:
    """Whether a recipe fits a GPU or a budget, and the smallest changes with which it does.

    Args:
        now: its plan, for that GPU and budget.
        timing: as of that plan; this machine is not timed again.
        bench: of that plan; None: a new one.
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
    plan_again = same_machine(
        gpu=gpu, num_gpus=num_gpus, budget=budget, timing=again, bench=bench or Workbench()
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
    trial = Trial(recipe, now, state.limit, plan_again)
    changes: list[Change] = []
    alone: list[Change] = []
    possible = possible_changes(recipe, now.sets)
    hopeless = _beyond_all_changes(recipe, possible, trial, state.limit)
    if hopeless is not None:
        return replace(state, nearest=hopeless, larger_gpu=_larger_gpu(now))
    for change in possible:
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
        larger_gpu=_larger_gpu(now),
    )


def _beyond_all_changes(
    recipe: Recipe, possible: list[Change], trial: Trial, limit: int
) -> int | None:
    """Bytes that a device needs with all changes, where the smallest weights alone are too much, or
    more than weights may take of it, so that some are offloaded unasked whatever else is changed:
    then no change need be tried. None: they may help."""
    may_offload = recipe.base.offload in OFFLOADED or any(c.key == "base.offload" for c in possible)
    furthest = list({change.key: change for change in possible}.values())
    planned = None if may_offload else trial.plan(furthest)
    if planned is None:
        return None
    if offloaded_bytes(planned):
        return max(demanded_bytes(planned), int(planned.memory.weights / SHARE_OF_FREE_MEMORY))
    return demanded_bytes(planned) if planned.memory.weights > limit else None


def _larger_gpu(now: Plan) -> str | None:
    """The smallest GPU that holds what the recipe needs as it is."""
    if now.gpu is None:
        return None
    needed = demanded_bytes(now)
    fitting = [
        gpu
        for gpu in GPUS.values()
        if gpu.has_bfloat16 and gpu.left(needed, now.memory.weights) >= 0
    ]
    return min(fitting, key=lambda gpu: gpu.memory_bytes).name if fitting else None
