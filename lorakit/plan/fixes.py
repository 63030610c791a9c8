"""What to change when a run does not fit: every change is planned again, none is guessed.

Changes are tried in the order of what they cost, the cheapest first. Those that make the run fit
alone are offered one by one; where none does, they are put together in that order until it fits,
and whatever turns out not to be needed is taken back. Offloading costs the most: it is put together
with others only where nothing fits without it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from lorakit.plan.blueprint import Workbench
from lorakit.plan.changes import OFFLOAD, Change, possible_changes
from lorakit.plan.duration import Timing
from lorakit.plan.gpus import GPUS
from lorakit.plan.result import Plan
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
        nearest: where no changes make it fit, the least that the device needs with those that help
            together, offloading among them: as it was planned.
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
    possible = possible_changes(
        recipe,
        now.sets,
        now.setup["device"],
        now.setup["answers_at_a_time"],
        completions_at_a_time=now.peaks.completions_at_a_time,
    )
    here = [change for change in possible if change.key != OFFLOAD]
    elsewhere = [change for change in possible if change.key == OFFLOAD]
    hopeless = bool(elsewhere) and _beyond_all_changes(here, trial, state.limit)
    alone = [] if hopeless else _alone(here, trial, most_offered)
    if alone and len(alone) < most_offered:
        alone += _alone(elsewhere, trial, 1)
    found = [[change] for change in alone]
    nearest = sys.maxsize
    together: list[Change] = []
    helping = here
    if not found and not hopeless:
        helping = [change for change in here if trial.helps([change])]
        together = trial.put_together(helping)
        found = [together] if trial.fits(together) else []
        nearest = trial.demand(together)
    # Where weights fit beside what does not, offloading them by itself saves nothing.
    if not found and elsewhere and (hopeless or trial.demand(together + elsewhere) < nearest):
        together = trial.put_together(helping, beside=elsewhere)
        found = [together] if trial.fits(together) else []
        nearest = min(nearest, trial.demand(together))
    return replace(
        state,
        fixes=tuple(trial.fix(chosen) for chosen in found),
        nearest=None if found or nearest == sys.maxsize else nearest,
        larger_gpu=_larger_gpu(now),
    )


def _alone(changes: list[Change], trial: Trial, most_offered: int) -> list[Change]:
    """Changes that make it fit alone, each key's mildest."""
    found: list[Change] = []
    for change in changes:
        if len(found) == most_offered:
            break
        # Going further with what is enough costs more, and is no other way.
        if all(change.key != enough.key for enough in found) and trial.fits([change]):
            found.append(change)
    return found


def _beyond_all_changes(here: list[Change], trial: Trial, limit: int) -> bool:
    """Whether the smallest weights alone are too much, or more than weights may take of the device,
    so that some are offloaded unasked whatever else is changed: then nothing but offloading need be
    tried."""
    # Nothing else changes weights, nor what they may take.
    planned = trial.plan([change for change in here if change.changes_base])
    if planned is None:
        return False
    return offloaded_bytes(planned) > 0 or planned.memory.weights > limit


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
