"""Whether a run fits the memory of its device, by the plan's own numbers.

The plan counts all that a run takes beyond what the interpreter holds after its imports. Some of it
may be there by now: loaded weights, rows, libraries that the rules have woken. That is not free any
more and need not be allocated again, so it counts as memory that the run has; whatever else this
process holds does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.lint.facts import Facts
from lorakit.plan.duration import NOT_TIMED
from lorakit.plan.fixes import fixes_for
from lorakit.plan.peaks import CUDA_CONTEXT
from lorakit.plan.trial import OFFLOADED, offloaded_bytes
from lorakit.sizes import size

# The plan is held to 10 % of what is measured (docs/plan.md).
UNSURE = 0.1


@dataclass(frozen=True)
class Need:
    """What a run needs beside what there is, in bytes of the device.

    Attributes:
        needed: at the highest moment.
        phase: which that is.
        offloaded: weights that live elsewhere although the recipe does not ask for it.
        available: what it may take: what is free now, and what of it is here already.
        total: what the device has.
        is_sure: whether the micro-batch is a real one, and its passes were rehearsed.
    """

    needed: int
    phase: str
    offloaded: int
    available: int
    total: int
    is_sure: bool

    @property
    def sure_limit(self) -> int:
        """What is available, less what the plan may be off by."""
        return int(self.available / (1 + UNSURE))

    def in_words(self) -> str:
        """`needs 12.30 GiB at its highest (evaluation); 8.00 GiB are available of 16.00 GiB`."""
        return (
            f"needs {size(self.needed)} at its highest ({self.phase.replace('_', ' ')}); "
            f"{size(self.available)} are available of {size(self.total)}"
        )


def need_of(facts: Facts) -> Need | None:
    """What the run needs; None where the device or the plan is not known."""
    room = facts.hardware.room
    plan = None if room is None else facts.plan  # which is only made where it says something
    if plan is None or room is None:
        return None
    phases = plan.peaks.phases
    phase = max(phases, key=phases.__getitem__)
    # CUDA's context is there: asking how much is free has made it.
    context = CUDA_CONTEXT if facts.hardware.device == "cuda" else 0
    asked = facts.recipe.base.offload in OFFLOADED
    return Need(
        plan.needed + context,
        phase,
        0 if asked else offloaded_bytes(plan),
        min(room.total, room.available(plan.own) + context),
        room.total,
        plan.peaks.assumed is None and plan.peaks.estimated is None,
    )


def smallest_fix(facts: Facts, need: Need) -> str:
    """What to change so that it surely fits, in words that end a sentence."""
    assert facts.plan is not None
    fixes = fixes_for(
        facts.recipe,
        facts.plan,
        gpu=None,
        budget=need.sure_limit,
        timing=NOT_TIMED,
        bench=facts.bench,
        most_offered=1,
    )
    if fixes is None or not fixes.fixes:
        return "no change is known that makes it fit: take a smaller base or a larger device"
    first = fixes.fixes[0]
    changes = " and ".join(f"{key}: {value}" for key, value in first.changes.items())
    return f"the smallest change: {changes} ({'; '.join(first.costs)}), then {size(first.needed)}"
