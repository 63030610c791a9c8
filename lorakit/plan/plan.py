"""What a recipe will take: parameters, bytes by part, steps and tokens, time and money."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lorakit.data.named_sets import NamedSets
from lorakit.plan.answers import count_answers
from lorakit.plan.blueprint import Workbench
from lorakit.plan.devices import data_parallel
from lorakit.plan.duration import (
    NOT_TIMED,
    Counted,
    Duration,
    Timing,
    predict_duration,
)
from lorakit.plan.gpus import find_gpu
from lorakit.plan.libraries import left_by_rows
from lorakit.plan.memory import with_optimizer
from lorakit.plan.peaks import Peaks, find_peaks
from lorakit.plan.policy import Rollouts, rollouts_of, run_length
from lorakit.plan.result import Plan
from lorakit.plan.rows import Sets, read_sets, what_is_absent
from lorakit.plan.setup import setup_of
from lorakit.plan.steps import RunLength
from lorakit.plan.target import Target
from lorakit.plan.worst_passes import worst_of_evaluation, worst_of_training
from lorakit.recipe import EvaluateSection, Recipe
from lorakit.recipe.warm_start import warm_start_recipe

BUDGET_OF_CPU = (
    "the budget is of this machine's CPU, which takes other dtypes than a GPU; for a GPU with so "
    "little memory name one too, such as --gpu rtx4090"
)
BUSY = (
    "this machine was busy with other things while it was timed; times may be too long: run it "
    "again"
)
# Of a policy gradient.
AT_MOST = (
    "memory, tokens and time are those of completions that are all as long as "
    "grpo.max_completion_length: at most, and much less where they are short; completions that "
    "nothing sets apart in their groups are not trained on"
)
ON_SERVER = (
    "completions come from the vLLM server of grpo.vllm_server_base_url; the memory that it takes "
    "is not in these numbers. On the GPU of this run, leave it less: vllm serve "
    "--gpu-memory-utilization"
)


def plan(
    recipe: Recipe,
    *,
    sets: Sets | None = None,
    reads_rows: bool = True,
    gpu: str | None = None,
    num_gpus: int = 1,
    budget: int | None = None,
    is_loaded: bool = False,
    is_idle: bool = False,
    timing: Timing = NOT_TIMED,
    bench: Workbench | None = None,
) -> Plan:
    """Predict what `recipe` takes.

    Args:
        recipe: `base.model` may be a folder with nothing but a config.json.
        sets: the examples; None: they are read if data and tokenizer are at hand, otherwise steps
            and tokens stay unknown and a note says why.
        reads_rows: false: without `sets` they stay unknown in any case.
        gpu: name of a GPU to plan for; None: this machine.
        num_gpus: that share the examples of each step.
        budget: bytes of the GPU, or of this machine, that the run may take; None: all.
        is_loaded: whether the base is in memory by now, which then is not free any more.
        is_idle: count on all memory of this machine, not on what other programs leave free now, so
            that the same recipe always gets the same plan.
        timing: what time and money are found from.
        bench: shared with plans of other recipes for the same machine; None: it shares nothing.

    Raises:
        InputError: a recipe that cannot work: no such model, targets that match nothing, rows that
            cannot be read.
    """
    named = None if gpu is None else find_gpu(gpu)
    target = Target.of(recipe.base, named, budget=budget, is_idle=is_idle)
    bench = bench or Workbench()
    blueprint = bench.blueprint(recipe, target)
    base, model, adapter = recipe.base, blueprint.model, blueprint.adapter
    state = blueprint.state(recipe.train)
    by_device = target.placement(blueprint.layer_bytes, base, is_loaded=is_loaded)
    memory = with_optimizer(blueprint.weights, state, by_device)
    problem = None
    if sets is None and reads_rows:
        sets, problem = read_sets(recipe, model.config)
    length = None if sets is None else run_length(recipe, sets.train, sets.repeats)
    free = target.free_bytes(memory, is_loaded=is_loaded)
    # Of a machine of which nothing is known no layers are planned to be dense.
    for_answers = None if free == sys.maxsize else free
    rollouts = None
    if recipe.train.method == "grpo":
        rollouts = rollouts_of(recipe, model, sets, length, free_bytes=for_answers)
    division, worst = worst_of_training(
        recipe, blueprint, sets, length, rollouts, free_bytes=free, num_gpus=num_gpus
    )
    measured = worst_of_evaluation(
        recipe, model, sets, packed=division.packed, free_bytes=for_answers
    )
    at_a_time = measured.at_a_time if measured is not None and measured.prompts else None
    peaks = find_peaks(
        blueprint,
        memory,
        state,
        division,
        worst,
        measured,
        recipe.evaluate,
        quantization=base.quantization,
        row_bytes=0 if sets is None or sets.named is None else _row_bytes(sets.named),
        compact_heap=recipe.train.compact_heap,
        rollouts=rollouts,
    )
    own = peaks.rows + peaks.held_from_the_start
    if is_loaded:
        own += memory.by_device.get(target.device.type, 0)
    before = _plan_warm_start(
        recipe,
        sets,
        gpu=gpu,
        num_gpus=num_gpus,
        budget=budget,
        is_loaded=is_loaded,
        is_idle=is_idle,
        bench=bench,
        timing=replace(timing, spent=NOT_TIMED.spent, checks=None, prices=None),
    )
    if before is not None:
        peaks = replace(peaks, phases={**peaks.phases, **_warm_start_phases(before.peaks)})
    duration = Duration(how=f"not known: {what_is_absent(recipe)} not here")
    if sets is not None and length is not None:
        counted = Counted(
            recipe,
            blueprint,
            target,
            memory,
            division,
            sets,
            length,
            num_gpus,
            at_a_time or 1,
            rollouts,
            None if before is None else before.duration,
        )
        duration = predict_duration(counted, timing)
    disturbed = duration.disturbed or (before is not None and before.duration.disturbed)
    has_cpu_budget = budget is not None and target.device.type == "cpu"
    notes = _notes(recipe, problem, length, rollouts, has_cpu_budget=has_cpu_budget)
    return Plan(
        total_parameters=adapter.total,
        trainable_parameters=adapter.trainable,
        num_adapted=len(adapter.adapted),
        num_not_adapted=len(adapter.not_adapted),
        memory=memory,
        peaks=peaks,
        state=state,
        steps=recipe.train.max_steps if length is None else length.steps,
        tokens=None if length is None else length.tokens,
        trained_tokens=None if length is None else length.trained_tokens,
        gpu=target.fit(memory, peaks, base.offload),
        devices=data_parallel(
            memory,
            peaks,
            count=num_gpus,
            device_type=target.device.type,
            largest_layer=blueprint.largest_layer,
        ),
        own=own,
        setup=setup_of(recipe.train, blueprint, target, division, peaks.shape, at_a_time),
        notes=(*notes, *peaks.notes(), *([BUSY] if disturbed else [])),
        duration=duration,
        sets=sets,
        warm_start=before,
        answers=None
        if sets is None
        else count_answers(sets, recipe.evaluate, seed=recipe.train.seed),
    )


def _row_bytes(sets: NamedSets) -> int:
    """What rows take while a run goes on, and what those that are gone have left."""
    return sets.held_bytes + left_by_rows(len(one.examples) for one in sets.every_set())


def _notes(
    recipe: Recipe,
    problem: str | None,
    length: RunLength | None,
    rollouts: Rollouts | None,
    *,
    has_cpu_budget: bool,
) -> Iterator[str]:
    """What a reader should know about numbers that are no memory."""
    if has_cpu_budget:
        yield BUDGET_OF_CPU
    if problem is not None:
        yield problem
    if recipe.train.early_stopping_patience is not None:
        yield "early stopping may end the run sooner"
    if length is not None and not length.exact:
        yield "tokens are estimated from the first epochs: weights draw other rows in each"
    if rollouts is not None:
        yield AT_MOST
        if rollouts.on_server:
            yield ON_SERVER


def _plan_warm_start(recipe: Recipe, sets: Sets | None, **options: Any) -> Plan | None:
    """Of the SFT that comes first, which is not evaluated; None: there is none."""
    stage = warm_start_recipe(recipe)
    if stage is None:
        return None
    stage.evaluate = EvaluateSection()
    named = None if sets is None or sets.named is None else sets.named.warm_start
    own = None if named is None else Sets.of(replace(named, evaluation={}))
    return plan(stage, sets=own, reads_rows=False, **options)


def _warm_start_phases(peaks: Peaks) -> dict[str, int]:
    named = {"training_step": "warm_start_step", "validation": "warm_start_validation"}
    return {named[name]: count for name, count in peaks.phases.items() if name in named}
