"""What `lorakit plan` found, as its page reads it; whatever is absent or null is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.report.part import Part
from lorakit.report.training_files import Parameters

# What there is in each phase of a run, in the order it is stacked, and what the rest of it is.
_WEIGHTS = ("weights", "on_its_way", "quantization_constants")
_THERE = (*_WEIGHTS, "dense_copies", "libraries", "rows")
_TRAINED = ("adapter", "gradients", "optimizer")
PHASES = {
    "loading": ((*_WEIGHTS, "loading_libraries"), "being_packed"),
    "training_step": ((*_THERE, *_TRAINED, "activations", "holes"), "working"),
    "optimizer_step": ((*_THERE, *_TRAINED), "new_values"),
    "rollout": (
        (*_THERE, *_TRAINED, "rollout_weights", "rollout_kv_cache", "rollout_holes"),
        "forward_pass",
    ),
    "validation": ((*_THERE, *_TRAINED), "forward_pass"),
    "evaluation": (
        (
            *(*_WEIGHTS, "libraries", "rows", "adapter"),
            *("answer_weights", "kv_cache", "evaluation_holes"),
        ),
        "forward_pass",
    ),
    # Of the SFT before a policy gradient: its passes are its own, of which the sum is known.
    "warm_start_step": ((*_THERE, *_TRAINED), "whole_pass"),
    "warm_start_validation": ((*_THERE, *_TRAINED), "forward_pass"),
}
SHOWN_AS = {  # of a bar, parts under the name of another bar's
    "loading_libraries": "libraries",
    "rollout_weights": "answer_weights",
    "rollout_kv_cache": "kv_cache",
    "rollout_holes": "holes",
    "evaluation_holes": "holes",
}
TOTALS = ("peak", "loading_peak", "total")  # sums, not parts


class CostFound(Part):
    """A sum and what it rests on."""

    amount: float
    currency: str
    basis: str


class GpuFacts(Part):
    """The GPU that was planned for."""

    name: str
    memory_bytes: int
    is_budget: bool = False
    left_for_activations: int | None = None
    needed: int | None = None
    fits: bool | None = None


class Layers(Part):
    adapted: int
    not_adapted: int


class MicroBatchFacts(Part):
    """The largest pass of the run; `assumed` says why it is no real one."""

    tokens: int
    examples: int
    longest: int
    assumed: str | None = None


class DeviceFacts(Part):
    """What was planned for, "cpu" or "cuda", and how many GPUs share each step."""

    type: str | None = None
    count: int
    peak: int | None = None
    sharded_weights_peak: int | None = None


class SetupFacts(Part):
    """What was planned for, and how each step is divided there; layers by level of recompute."""

    device: str
    gpu: str | None = None
    dtype: str
    micro_batch_tokens: int
    recompute: dict[str, int]
    answers_at_a_time: int | None = None


class RolloutFacts(Part):
    """Of a policy gradient, what is there while completions are written."""

    kv_cache: int | None = None
    dense_weights: int | None = None
    holes: int | None = None


class FixFacts(Part):
    """Changes with which it fits, what each costs, and what is then needed."""

    changes: dict[str, Any]
    costs: tuple[str, ...] = ()
    needed: int
    slowdown: float | None = None

    @property
    def is_group(self) -> bool:
        """Whether it takes several changes together."""
        return len(self.changes) > 1


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
    memory_phases: dict[str, int] | None = None
    memory_parts: dict[str, int | None] | None = None
    worst_micro_batch: MicroBatchFacts | None = None
    evaluation_bytes: dict[str, int] | None = None
    rollouts: RolloutFacts | None = None
    devices: DeviceFacts | None = None
    setup: SetupFacts | None = None
    methods: dict[str, dict[str, int | None]] | None = None
    steps: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    seconds: float | None = None
    seconds_at_most: float | None = None
    seconds_by_part: dict[str, float] | None = None
    seconds_found: str | None = None
    seconds_left_out: tuple[str, ...] = ()
    flops: dict[str, float] | None = None
    cost: float | None = None
    cost_found: CostFound | None = None
    cost_missing: str | None = None
    weights_by_device: dict[str, int] | None = None
    layers: Layers | None = None
    gpu: GpuFacts | None = None
    fit: FitFacts | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_bound(self) -> bool:
        """Whether tokens, time and cost are of a policy gradient, known as at most."""
        return self.rollouts is not None

    @property
    def seconds_of_all(self) -> float | None:
        """Of a policy gradient at most; None: not known."""
        return self.seconds_at_most if self.is_bound else self.seconds


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


def methods_of(plan: PlanFound) -> list[Stack]:
    """A bar for each method that is known."""
    stacks = [
        _stack(name, {part: count for part, count in values.items() if part not in TOTALS})
        for name, values in (plan.methods or {}).items()
    ]
    return [_with(one, _context(plan)) for one in stacks]


def phases_of(plan: PlanFound) -> list[Stack]:
    """Memory over the course of a run; where only its parts are known, loading and a step."""
    parts, context = _parts(plan), _context(plan)
    if not plan.memory_phases:
        loading = plan.memory_bytes.get("loading_peak")
        step = {
            name: count
            for name, count in parts.items()
            if name not in TOTALS and name not in SHOWN_AS
        }
        stacks = [_phase("loading", loading, parts)] if loading else []
        stacks += [_stack("training_step", step)] if any(step.values()) else []
        return [_with(one, context) for one in stacks]
    phases = plan.memory_phases.items()
    return [_with(_phase(name, total, parts), context) for name, total in phases]


def _context(plan: PlanFound) -> int:
    """Bytes that a GPU takes beside the tensors: what is needed over the peak."""
    needed = plan.fit.needed_bytes if plan.fit is not None else plan.gpu and plan.gpu.needed
    peak = plan.memory_bytes.get("peak")
    return max(0, needed - peak) if needed and peak else 0


def _with(one: Stack, context: int) -> Stack:
    return one.model_copy(update={"parts": one.parts | ({"context": context} if context else {})})


def _parts(plan: PlanFound) -> dict[str, int | None]:
    """Every part by name; quantization scales apart from the weights they belong to, but where some
    weights live elsewhere: there only what is on the device counts, and one weight on its way."""
    parts = plan.memory_bytes | (plan.memory_parts or {})
    parts["evaluation_holes"] = (plan.evaluation_bytes or {}).get("holes")
    if plan.rollouts is not None:
        rolled = plan.rollouts
        parts |= {
            "rollout_weights": rolled.dense_weights,
            "rollout_kv_cache": rolled.kv_cache,
            "rollout_holes": rolled.holes,
        }
    by_device = plan.weights_by_device or {}
    device = None if plan.devices is None else plan.devices.type
    if device is not None and any(count for where, count in by_device.items() if where != device):
        on_its_way = parts.get("unpacked_weight")
        here = {"weights": by_device.get(device, 0), "quantization_constants": 0}
        return parts | here | {"on_its_way": on_its_way}
    weights, scales = parts.get("weights"), parts.get("quantization_constants")
    if weights and scales and scales < weights:
        parts["weights"] = weights - scales
    return parts


def _phase(name: str, total: int, parts: dict[str, int | None]) -> Stack:
    """A phase of which the sum is known, taken apart."""
    names, rest_name = PHASES.get(name, (_THERE, "other"))
    shown = {SHOWN_AS.get(part, part): parts.get(part) or 0 for part in names}
    rest = total - sum(shown.values())
    return _stack(name, shown | {rest_name: max(0, rest)})


def _stack(name: str, parts: Mapping[str, int | None]) -> Stack:
    known = {part: count for part, count in parts.items() if count}
    return Stack(name=name, parts=known, complete=None not in parts.values())
