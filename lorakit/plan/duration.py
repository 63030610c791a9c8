"""Operations, time and money of a run, from what the plan has counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lorakit.base import hub
from lorakit.base.load_time import time_loading
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.data.named_sets import NamedSets
from lorakit.engine.model_flops import ModelFlops
from lorakit.engine.passes import Pass, lay_out
from lorakit.plan.blueprint import Blueprint
from lorakit.plan.evaluation_work import evaluation_work, time_formulas
from lorakit.plan.gpus import Gpu
from lorakit.plan.machines import EFFICIENCY, DataSheet, Machine, Measured, machine_of
from lorakit.plan.memory import Memory
from lorakit.plan.operations import count_operations
from lorakit.plan.policy import Rollouts
from lorakit.plan.policy_work import PolicyWork, policy_work
from lorakit.plan.prices import Cost, Prices
from lorakit.plan.rows import Sets
from lorakit.plan.steps import RunLength
from lorakit.plan.target import Target
from lorakit.plan.time import Events, Seconds, predict_policy, predict_seconds
from lorakit.plan.workload import Workload, run_workload
from lorakit.recipe import Recipe
from lorakit.train.calibrate import calibrate
from lorakit.train.choices import Division
from lorakit.train.rates import Rates
from lorakit.train.settings import LoopSettings

Checks = Callable[[Recipe, NamedSets, PreTrainedTokenizerBase, PreTrainedConfig], float]


@dataclass(frozen=True)
class Timing:
    """What time and money are found from.

    Attributes:
        times_machine: time this machine for a few seconds; otherwise its time stays unknown.
        spent: seconds of the process so far: a run takes them for its imports and rows too.
        checks: seconds that the rules of `lorakit check` take, which every run begins with; None:
            not known.
        efficiency: share of a named GPU's products that training reaches.
        prices: None: no cost.
    """

    times_machine: bool = False
    spent: Callable[[], float] = lambda: 0.0
    checks: Checks | None = None
    efficiency: float = EFFICIENCY
    prices: Prices | None = None


NOT_TIMED = Timing()


@dataclass(frozen=True)
class Counted:
    """What the plan knows of a run before its time.

    Attributes:
        blueprint: base and adapter.
        memory: bytes by part.
        division: how training will divide its steps.
        sets, length: what the run sees.
        num_gpus: that share the examples of each step.
        at_a_time: answers of the evaluation that are written together.
        rollouts: of a policy gradient; None: it is SFT.
        warm_start: what the plan of the stage before says of time; None: there is no such stage.
    """

    recipe: Recipe
    blueprint: Blueprint
    target: Target
    memory: Memory
    division: Division
    sets: Sets
    length: RunLength
    num_gpus: int = 1
    at_a_time: int = 1
    rollouts: Rollouts | None = None
    warm_start: Duration | None = None


@dataclass(frozen=True)
class Duration:
    """What a run takes besides memory.

    Attributes:
        flops: {part: operations}; None where the rows are not known.
        seconds: None where no machine is known.
        how: how the time was found, or why it is not known.
        cost: None where time or price is not known.
        no_cost: why there is none although prices were given.
        left_out: what the run does beside, whose time nobody knows, in words.
        disturbed: whether this machine was busy with other things while it was timed.
    """

    flops: dict[str, float] | None = None
    seconds: Seconds | None = None
    how: str = "not known"
    cost: Cost | None = None
    no_cost: str | None = None
    left_out: tuple[str, ...] = ()
    disturbed: bool = False

    @property
    def is_bound(self) -> bool:
        """Whether it is of a policy gradient, of which all is known as at most."""
        return self.flops is not None and "rollouts" in self.flops

    def to_json(self) -> dict[str, Any]:
        """Its part of `plan.json`."""
        seconds, cost = self.seconds, self.cost
        known = None if seconds is None or seconds.is_bound else round(seconds.total, 3)
        return {
            "seconds": known,
            "seconds_at_most": None if seconds is None else round(seconds.at_most, 3),
            "seconds_by_part": None if seconds is None else seconds.to_json(),
            "seconds_found": self.how,
            "seconds_left_out": list(self.left_out),
            "flops": self.flops,
            "cost": None if cost is None else round(cost.amount, 6),
            "cost_found": None if cost is None else vars(cost),
            "cost_missing": self.no_cost,
        }


def predict_duration(run: Counted, timing: Timing) -> Duration:
    """Predict the operations, seconds and money of a run."""
    target, division = run.target, run.division
    spent = timing.spent()  # before this machine is timed, for which a run takes no time
    policy = _policy_work(run)
    workload = _workload(run) if policy is None else policy.workload
    flops = run.blueprint.flops
    events = _events(run)
    counted = count_operations(flops, workload, events, division.recompute_policy, policy)
    left_out = [*events.evaluation.left_out, *_left_out(run)]
    checks, disturbed = 0.0, False
    machine: Machine
    if target.gpu is not None:
        machine = _sheet(run, target.gpu, flops, timing.efficiency)
        if events.evaluation.formulas:
            left_out.append("comparing formulas (math)")
    else:
        load = _load_seconds(run) if timing.times_machine else None
        if load is None:
            left_out.append("loading, for the weights of the base are not here")
        rates = _rates(run, flops, workload, timing)
        if isinstance(rates, str):
            return Duration(counted, None, rates, None)
        disturbed = rates.disturbed
        formulas = time_formulas() if events.evaluation.formulas else None
        checks = _check_seconds(run, timing)
        machine = Measured(flops, rates, load or 0.0, formulas)
    if policy is None:
        seconds = predict_seconds(workload, events, machine, start=spent + checks)
    else:
        seconds = predict_policy(policy, events, machine, start=spent + checks)
        if run.warm_start is not None and run.warm_start.seconds is not None:
            seconds = replace(seconds, warm_start=run.warm_start.seconds.of_steps)
    name = machine_of(target.device) if target.gpu is None else target.gpu.name
    cost = why = None
    if timing.prices is not None:
        cost = timing.prices.of_machine(name, seconds.expected, count=run.num_gpus)
        if cost is not None and seconds.is_bound:
            cost = replace(cost, basis=f"for the time at most; {cost.basis}")
        why = None if cost is not None else f"{timing.prices.source} has no price for {name!r}"
    return Duration(counted, seconds, machine.how, cost, why, tuple(left_out), disturbed)


def _policy_work(run: Counted) -> PolicyWork | None:
    if run.rollouts is None:
        return None
    sets = run.sets
    return policy_work(run.recipe, sets.train, sets.repeats, run.length, run.rollouts, run.division)


def _workload(run: Counted) -> Workload:
    recipe, division = run.recipe, run.division
    return run_workload(
        run.sets.train,
        run.sets.repeats,
        run.length,
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        micro_batch_tokens=division.micro_batch_tokens,
        packed=division.packed,
    )


def _left_out(run: Counted) -> Iterator[str]:
    """Of a policy gradient, what nobody here knows the time of."""
    if run.rollouts is None:
        return
    yield "rewards"
    if run.rollouts.on_server:
        yield "completions, which the vLLM server writes"
    if run.warm_start is not None and run.warm_start.seconds is None:
        yield "the warm start"


def _check_seconds(run: Counted, timing: Timing) -> float:
    """Of the rules, which `train` holds its rows to before it begins."""
    sets = run.sets
    if timing.checks is None or sets.named is None or sets.tokenizer is None:
        return 0.0
    return timing.checks(run.recipe, sets.named, sets.tokenizer, run.blueprint.model.config)


def _load_seconds(run: Counted) -> float | None:
    """Of loading the base; None where its weights are not here."""
    base = run.recipe.base
    path = hub.local_path(base.model)
    if not path.is_dir():
        cached = hub.resolve_config(base.model, base.revision).parent
        path = cached
    if not hub.weights_are_here(path):
        return None
    return time_loading(
        path,
        run.blueprint.model,
        as_stored=base.quantization == CHECKPOINT,
        dtype=run.target.dtype,
        device=run.target.device,
    )


def _rates(run: Counted, flops: ModelFlops, workload: Workload, timing: Timing) -> Rates | str:
    """Measured rates of the device, or why there are none."""
    device = run.target.device
    if not timing.times_machine:
        return "not known: this machine was not timed"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "not known: there is no CUDA device here to time; name one with --gpu"
    recipe = run.recipe
    try:
        return calibrate(
            run.blueprint.model,
            run.blueprint.adapter,
            flops,
            LoopSettings.from_section(recipe.train, packing=recipe.data.packing),
            run.division,
            workload.passes,
            device=device,
        )
    except (MemoryError, torch.OutOfMemoryError):
        return "not known: layers of the model do not fit beside what else is in memory here"


def _sheet(run: Counted, gpu: Gpu, flops: ModelFlops, efficiency: float) -> DataSheet:
    on_device = run.memory.by_device.get(run.target.device.type, 0)
    return DataSheet(
        flops,
        gpu,
        efficiency,
        weight_bytes=on_device,
        offloaded_bytes=run.memory.weights - on_device,
        unpacked_bytes=run.blueprint.copy_bytes,
        count=run.num_gpus,
        policy=run.division.recompute_policy,
        dtype=run.target.dtype,
    )


def _events(run: Counted) -> Events:
    """What happens between the steps and after them."""
    train, sets, length = run.recipe.train, run.sets, run.length
    division = run.division
    per_epoch = length.steps_per_epoch
    validation: list[Pass] = []
    if sets.validation is not None and run.rollouts is None:
        validation = lay_out(
            sets.validation,
            np.arange(len(sets.validation)),
            micro_batch_tokens=division.micro_batch_tokens,
            packed=division.packed,
        )
    return Events(
        validations=_how_often(length.steps, train.eval_steps or per_epoch) if validation else 0,
        checkpoints=_how_often(length.steps, train.save_steps or per_epoch),
        validation=validation,
        rehearsed=train.worst_batch_first,
        evaluation=evaluation_work(
            sets,
            run.recipe.evaluate,
            seed=train.seed,
            token_budget=train.forward_tokens,
            packed=division.packed,
            at_a_time=run.at_a_time,
        ),
    )


def _how_often(steps: int, every: int) -> int:
    """Every so many steps, and after the last."""
    return steps // every + (steps % every > 0)
