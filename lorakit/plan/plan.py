"""What a recipe will take: parameters, bytes by part, steps and tokens, time and money."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedModel

from lorakit.data.named_sets import NamedSets
from lorakit.evaluate.worst import WorstEvaluation, assumed_evaluation, worst_evaluation
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.optimizers.state_plan import StatePlan
from lorakit.plan.answers import Answers, count_answers
from lorakit.plan.blueprint import Blueprint, Workbench
from lorakit.plan.devices import data_parallel
from lorakit.plan.duration import (
    NOT_TIMED,
    Counted,
    Duration,
    Timing,
    predict_duration,
)
from lorakit.plan.gpus import find_gpu
from lorakit.plan.libraries import BEFORE_TRAINING, left_by_rows
from lorakit.plan.memory import Memory, with_optimizer
from lorakit.plan.peaks import Peaks, find_peaks
from lorakit.plan.policy import (
    Rollouts,
    longest_sequence,
    rollouts_of,
    run_length,
    worst_policy_step,
)
from lorakit.plan.rows import Sets, read_sets, what_is_absent
from lorakit.plan.setup import setup_of
from lorakit.plan.steps import RunLength
from lorakit.plan.target import Target
from lorakit.plan.worst import Worst, assumed_length, assumed_worst, real_worst
from lorakit.recipe import EvaluateSection, Recipe
from lorakit.recipe.warm_start import warm_start_recipe
from lorakit.train.choices import Division, divide
from lorakit.train.settings import LoopSettings

BUDGET_OF_CPU = (
    "the budget is of this machine's CPU, which takes other dtypes than a GPU; for a GPU with so "
    "little memory name one too, such as --gpu rtx4090"
)
# Of a policy gradient.
AT_MOST = (
    "memory and tokens are those of completions that are all as long as "
    "grpo.max_completion_length: at most, and much less where they are short; completions that "
    "nothing sets apart in their groups are not trained on"
)
ON_SERVER = (
    "completions come from the vLLM server of grpo.vllm_server_base_url; the memory that it takes "
    "is not in these numbers. On the GPU of this run, leave it less: vllm serve "
    "--gpu-memory-utilization"
)
NO_TIME = "not known: how long completions will be is not known before they are made"


@dataclass(frozen=True)
class Plan:
    """What is predicted; None where it is not known yet.

    Attributes:
        total_parameters: of base and adapter together, tied ones once, packed ones unpacked.
        trainable_parameters: those that train.
        num_adapted, num_not_adapted: layers with an adapter, and other weights of two dimensions.
        memory: bytes by part, of what is there all the time.
        peaks: the most there is, and in which phase.
        state: of the optimizer.
        steps: optimizer steps; tokens, trained_tokens: seen in the whole run.
        gpu: see `Target.fit`, when one was named.
        devices: see `data_parallel`.
        setup: see `setup_of`.
        methods: see `compare_methods`; empty: they were not compared.
        own: bytes of what is needed that are here before the first step, once a process has made
            itself ready for it: rows and libraries, and the base where it is loaded by now.
        duration: operations, seconds and cost.
        sets: the examples it was counted on; not in the file.
        warm_start: of the stage before; its phases are among those of `peaks` too.
        answers: of the final evaluation; None: there are none, or rows are not here.
        notes: what a reader should know about these numbers.
    """

    total_parameters: int
    trainable_parameters: int
    num_adapted: int
    num_not_adapted: int
    memory: Memory
    peaks: Peaks
    state: StatePlan
    steps: int | None
    tokens: int | None
    trained_tokens: int | None
    gpu: dict[str, Any] | None
    devices: dict[str, Any]
    setup: dict[str, Any]
    notes: tuple[str, ...]
    own: int = 0
    methods: dict[str, dict[str, int]] = field(default_factory=dict)
    duration: Duration = field(default_factory=Duration)
    sets: Sets | None = field(default=None, repr=False, compare=False)
    warm_start: Plan | None = None
    answers: Answers | None = None

    @property
    def needed(self) -> int:
        """Bytes that one device must have free."""
        return self.peaks.peak

    def to_json(self) -> dict[str, Any]:
        """The shape of `plan.json` and `lorakit plan --json`."""
        return {
            "parameters": {"total": self.total_parameters, "trainable": self.trainable_parameters},
            "memory_bytes": {
                "weights": self.memory.weights,
                "adapter": self.memory.adapter,
                "gradients": self.memory.gradients,
                "optimizer": self.memory.optimizer,
                "activations": self.peaks.activations,
                "loading_peak": self.peaks.phases["loading"],
                "peak": self.peaks.peak,
            },
            "memory_phases": dict(self.peaks.phases),
            "memory_parts": {
                "quantization_constants": self.memory.quantization_constants,
                "unpacked_weight": self.memory.largest_weight,
                **self.peaks.parts(),
            },
            "evaluation_bytes": None
            if self.peaks.evaluation is None
            else self.peaks.evaluation.parts(),
            "rollouts": None if self.peaks.rollouts is None else self.peaks.rollouts.to_json(),
            "answers": None if self.answers is None else self.answers.to_json(),
            "warm_start": None
            if self.warm_start is None
            else {
                "steps": self.warm_start.steps,
                "tokens": self.warm_start.tokens,
                "trained_tokens": self.warm_start.trained_tokens,
            },
            "worst_micro_batch": self.peaks.micro_batch(),
            "devices": self.devices,
            "setup": self.setup,
            "methods": self.methods,
            "steps": self.steps,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            **self.duration.to_json(),
            "weights_by_storage": self.memory.by_storage,
            "weights_by_device": self.memory.by_device,
            "optimizer_state": {
                "optim": self.state.optim,
                "bytes": self.state.layout.state_bytes,
                "resident_bytes": self.state.resident_bytes,
                "host_bytes": self.state.host_bytes,
                "pages": len(self.state.layout.pages),
            },
            "layers": {"adapted": self.num_adapted, "not_adapted": self.num_not_adapted},
            "gpu": self.gpu,
            "notes": list(self.notes),
        }


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
    notes: list[str] = []
    if budget is not None and target.device.type == "cpu":
        notes.append(BUDGET_OF_CPU)
    if sets is None and reads_rows:
        sets, problem = read_sets(recipe, model.config)
        if problem is not None:
            notes.append(problem)
    if recipe.train.early_stopping_patience is not None:
        notes.append("early stopping may end the run sooner")
    length = None if sets is None else run_length(recipe, sets.train, sets.repeats)
    if length is not None and not length.exact:
        notes.append("tokens are estimated from the first epochs: weights draw other rows in each")
    free = target.free_bytes(memory, is_loaded=is_loaded)
    # Of a machine of which nothing is known no layers are planned to be dense.
    for_answers = None if free == sys.maxsize else free
    rollouts = None
    if recipe.train.method == "grpo":
        rollouts = rollouts_of(recipe, model, sets, length, free_bytes=for_answers)
        notes.append(AT_MOST)
        if rollouts.on_server:
            notes.append(ON_SERVER)
    division, worst = _worst(
        recipe,
        blueprint,
        target,
        memory,
        sets,
        length,
        rollouts,
        num_gpus=num_gpus,
        is_loaded=is_loaded,
    )
    measured = _worst_evaluation(recipe, model, sets, division, for_answers)
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
    own = peaks.rows + (BEFORE_TRAINING if target.device.type == "cpu" else 0)
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
    )
    if before is not None:
        peaks = replace(peaks, phases={**peaks.phases, **_warm_start_phases(before.peaks)})
    notes += peaks.notes()
    duration = Duration(how=f"not known: {what_is_absent(recipe)} not here")
    if rollouts is not None:
        duration = Duration(how=NO_TIME)
    if sets is not None and length is not None and rollouts is None:
        counted = Counted(
            recipe, blueprint, target, memory, division, sets, length, num_gpus, at_a_time or 1
        )
        duration = predict_duration(counted, timing)
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
        setup=setup_of(blueprint, target, division, peaks.shape, at_a_time),
        notes=tuple(notes),
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


def _worst(
    recipe: Recipe,
    blueprint: Blueprint,
    target: Target,
    memory: Memory,
    sets: Sets | None,
    length: RunLength | None,
    rollouts: Rollouts | None,
    *,
    num_gpus: int,
    is_loaded: bool,
) -> tuple[Division, Worst]:
    """How training will divide its steps, and the micro-batches of these that take the most."""
    longest = assumed_length(recipe, blueprint.model)
    if sets is not None:
        longest = int(sets.train.lengths.max())
    if rollouts is not None:
        longest = longest_sequence(rollouts, blueprint.model)
    layers = blueprint.layers.bytes
    division = divide(
        blueprint.model,
        LoopSettings.from_section(recipe.train, packing=recipe.data.packing),
        longest=longest,
        device_type=target.device.type,
        free_bytes=target.free_bytes(memory, is_loaded=is_loaded),
        layers=layers,
    )
    if rollouts is not None:
        return division, worst_policy_step(recipe, rollouts, division, longest)
    if sets is None or length is None:
        return division, assumed_worst(
            longest, division, validates=recipe.data.validation is not None
        )
    worst = real_worst(layers, sets, recipe, division, num_steps=length.steps, world_size=num_gpus)
    return division, worst


def _worst_evaluation(
    recipe: Recipe,
    model: PreTrainedModel,
    sets: Sets | None,
    division: Division,
    free_bytes: int | None,
) -> WorstEvaluation | None:
    """The passes of the final evaluation; of sets that are not here, those that they may have."""
    budget = recipe.train.forward_tokens
    wanted = recipe.evaluate
    room = AnswerRoom.of(
        model,
        max_new_tokens=wanted.max_new_tokens,
        given=wanted.max_batch,
        free_bytes=free_bytes,
    )
    if sets is not None and sets.has_held_out:
        return worst_evaluation(
            sets.evaluation,
            sets.train,
            recipe.evaluate,
            room,
            seed=recipe.train.seed,
            token_budget=budget,
            packed=division.packed,
        )
    longest = assumed_length(recipe, model) if sets is None else int(sets.train.lengths.max())
    return assumed_evaluation(
        recipe,
        room,
        longest=longest,
        token_budget=budget,
        packed=division.packed,
    )
