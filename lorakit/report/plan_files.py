"""What `lorakit plan` found, as its page reads it; whatever is absent or null is not known."""

from __future__ import annotations

from typing import Any

from lorakit.report.files import Parameters
from lorakit.report.part import Part

# Parts of memory in the order they are stacked, what is there all the time first; others follow.
PARTS = (
    "weights",
    "quantization_constants",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "loss_chunk",
    "dequantization",
)
# Sums, not parts.
TOTALS = ("peak", "loading_peak", "total")


class CostFound(Part):
    """A sum and what it rests on."""

    amount: float
    currency: str
    basis: str


class GpuFacts(Part):
    """The GPU that was planned for."""

    name: str
    memory_bytes: int
    left_for_activations: int | None = None


class Layers(Part):
    adapted: int
    not_adapted: int


class FixFacts(Part):
    """Changes with which it fits, what each costs, and what is then needed."""

    changes: dict[str, Any]
    costs: tuple[str, ...] = ()
    needed: int
    slowdown: float | None = None


class FitFacts(Part):
    """Whether it fits, and what to change."""

    needed_bytes: int
    limit_bytes: int
    offloaded_bytes: int = 0
    fits: bool
    fixes: tuple[FixFacts, ...] = ()
    nearest_bytes: int | None = None
    larger_gpu: str | None = None


class PlanFound(Part):
    """The object of `lorakit plan --json`."""

    parameters: Parameters
    memory_bytes: dict[str, int | None]
    phases: dict[str, dict[str, int | None]] | None = None
    methods: dict[str, dict[str, int | None]] | None = None
    steps: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    seconds: float | None = None
    seconds_by_part: dict[str, float] | None = None
    seconds_found: str | None = None
    flops: dict[str, float] | None = None
    cost: float | None = None
    cost_found: CostFound | None = None
    weights_by_device: dict[str, int] | None = None
    layers: Layers | None = None
    gpu: GpuFacts | None = None
    fit: FitFacts | None = None
    notes: tuple[str, ...] = ()


class Stack(Part):
    """One bar: a moment of a run, or a method, and the bytes of its parts.

    Attributes:
        complete: whether every part is known; the bar is "at least" otherwise.
    """

    name: str
    parts: dict[str, int]
    complete: bool = True

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def stacks_of(named: dict[str, dict[str, int | None]]) -> list[Stack]:
    """A bar for each entry; an entry without any known part has none."""
    found = []
    for name, values in named.items():
        parts = {part: count for part, count in values.items() if part not in TOTALS}
        known = {part: count for part, count in parts.items() if count}
        peak = values.get("peak") or values.get("total")
        rest = 0 if peak is None else peak - sum(known.values())
        if rest > 0:
            known["other"] = rest
        if known:
            complete = None not in parts.values() or peak is not None
            found.append(Stack(name=name, parts=_in_order(known), complete=complete))
    return found


def phases_of(plan: PlanFound) -> list[Stack]:
    """Memory over the course of a run; where only its parts are known, loading and a step."""
    if plan.phases:
        return stacks_of(plan.phases)
    step = stacks_of({"training_step": plan.memory_bytes})
    loading = plan.memory_bytes.get("loading_peak")
    if not loading:
        return step
    weights = min(plan.memory_bytes.get("weights") or 0, loading)
    parts = {"weights": weights, "being_packed": loading - weights}
    return [Stack(name="loading", parts={k: v for k, v in parts.items() if v}), *step]


def _in_order(parts: dict[str, int]) -> dict[str, int]:
    known = [name for name in PARTS if name in parts]
    return {name: parts[name] for name in [*known, *(n for n in parts if n not in known)]}
