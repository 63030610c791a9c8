"""Plans of a recipe with changes, and whether they fit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import InputError
from lorakit.plan.changes import OFFLOAD, Change
from lorakit.plan.plan import plan
from lorakit.plan.result import Plan
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe, edited

OFFLOADED = ("cpu", "disk")

log = logging.getLogger(__name__)

PlanAgain = Callable[[Recipe, Sets | None], Plan]


def same_machine(**options: Any) -> PlanAgain:
    """Plans other recipes with the `options` that `plan` was given, on rows that are read."""

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        return plan(changed, sets=sets, reads_rows=False, **options)

    return plan_again


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


class Trial:
    """Plans of the recipe with changes, each made once."""

    def __init__(self, recipe: Recipe, now: Plan, limit: int, plan_again: PlanAgain) -> None:
        self._recipe, self._now, self._limit = recipe, now, limit
        self._plan_again = plan_again
        self._plans: dict[str, Plan | None] = {_key({}): now}

    def plan(self, changes: Sequence[Change]) -> Plan | None:
        """None: these changes cannot work together, here or with this model."""
        values = {change.key: change.value for change in changes}
        key = _key(values)
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
        """Bytes that are needed: on the device where offloading is asked for, otherwise with all
        weights there; of what cannot work, more than there are anywhere."""
        planned = self.plan(changes)
        return sys.maxsize if planned is None else self._demand_of(planned, changes)

    def helps(self, changes: Sequence[Change]) -> bool:
        """Whether less is needed; what cannot work does not help."""
        phases = self._now.peaks.phases
        highest = [name for name, size in phases.items() if size == self._now.needed]
        if not _can_lower(changes, highest):
            return False
        return self.demand(changes) < self._demand_of(self._now, changes) or self.fits(changes)

    def fits(self, changes: Sequence[Change]) -> bool:
        """Whether the run fits; offloaded only where the recipe or a change asks for it."""
        if not self._may_fit(changes):
            return False
        planned = self.plan(changes)
        allows = self._offloads(changes)
        return planned is not None and fits(planned, self._limit, allows_offload=allows)

    def put_together(
        self, changes: Sequence[Change], *, beside: Sequence[Change] = ()
    ) -> list[Change]:
        """Changes in their order until the run fits, none of them further than needed, and after
        them those of `beside`, which stay in any case; where it never fits, those that come
        nearest."""
        fixed, chosen = list(beside), list[Change]()
        if fixed and self.fits(fixed):
            return fixed
        for change in changes:
            longer = [c for c in chosen if c.key != change.key] + [change]
            # The first is taken in any case: without one there would be nothing to compare with.
            if not (chosen or fixed) or self.demand(longer + fixed) < self.demand(chosen + fixed):
                chosen = longer
            if self.fits(chosen + fixed):
                break
        else:
            return chosen + fixed
        for change in reversed(chosen[:-1]):
            # What it came after, of the same key, may be enough beside the others.
            milder = [c for c in changes[: changes.index(change)] if c.key == change.key]
            for instead in ([], *([c] for c in milder)):
                fewer = [c for c in chosen if c is not change] + instead
                if self.fits(fewer + fixed):
                    chosen = sorted(fewer, key=changes.index)
                    break
        return chosen + fixed

    def _may_fit(self, changes: Sequence[Change]) -> bool:
        """Whether these changes are about what is too much; those that are not are not planned."""
        # Weights that do not fit go elsewhere, unless they are other weights.
        same_weights = not any(change.changes_base for change in changes)
        if offloaded_bytes(self._now) and same_weights and not self._offloads(changes):
            return False
        left = self._limit - needed_bytes(self._now) + self._now.needed
        too_much = [name for name, size in self._now.peaks.phases.items() if size > left]
        return _can_lower(changes, too_much)

    def _offloads(self, changes: Sequence[Change]) -> bool:
        return self._recipe.base.offload in OFFLOADED or any(c.key == OFFLOAD for c in changes)

    def _demand_of(self, planned: Plan, changes: Sequence[Change]) -> int:
        return needed_bytes(planned) if self._offloads(changes) else demanded_bytes(planned)

    def fix(self, changes: Sequence[Change]) -> Fix:
        planned = self.plan(changes)
        assert planned is not None  # it fits
        before, after = self._now.duration.seconds, planned.duration.seconds
        return Fix(
            {change.key: change.value for change in changes},
            tuple(change.costs for change in changes),
            needed_bytes(planned),
            None if before is None or after is None else after.expected / before.expected,
        )


def _can_lower(changes: Sequence[Change], phases: Sequence[str]) -> bool:
    return all(any(change.can_lower(phase) for change in changes) for phase in phases)


def _key(values: dict[str, Any]) -> str:
    return repr(sorted(values.items(), key=lambda pair: pair[0]))


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
