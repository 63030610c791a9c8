"""The most memory that a run takes, phase by phase, at the worst micro-batch it will really see."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorakit.engine.activations import LayerBytes
from lorakit.evaluate.worst import WorstEvaluation
from lorakit.kernels.cpu import COMPILED
from lorakit.kernels.scratch import SMALLEST_BYTES
from lorakit.optimizers.state_plan import StatePlan
from lorakit.plan.evaluation import EvaluationBytes
from lorakit.plan.heap import Heap
from lorakit.plan.libraries import (
    COMPILER,
    COMPUTING,
    READING,
    held_from_the_start,
    libraries_of_loading,
)
from lorakit.plan.memory import Memory
from lorakit.plan.policy import Rollouts
from lorakit.plan.rehearsal import BatchShape, PassBytes, asks_for_data, where_data_is_asked
from lorakit.plan.worst import Worst
from lorakit.recipe import EvaluateSection
from lorakit.recipe.quantizations import BLOCKWISE
from lorakit.train.choices import Division
from lorakit.train.heap import LARGE_BYTES

if TYPE_CHECKING:
    from lorakit.plan.blueprint import Blueprint

# On the device beside what PyTorch allocates: CUDA's context and the kernels' code.
CUDA_CONTEXT = 512 << 20
# Of a page of the optimizer at a time: both moments, decoded and new, the root and the new values.
OPTIMIZER_TEMPORARIES = 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peaks:
    """Bytes on the device that computes, at most.

    Attributes:
        activations: what the worst micro-batch keeps for its backward pass.
        working: the most there is beside that during the pass: gradients of activations, unpacked
            weights, a chunk of logits.
        loss: of it, while the loss was made.
        dense_copies: packed weights kept unpacked too.
        holes: of a CPU's heap: what is resident beside what lives (see `plan/heap.py`).
        libraries: code and tables of the libraries that a run uses, the tokenizer's among them; 0
            on a GPU, where tensors are what counts.
        loading_libraries: the same while the base is loaded.
        held_from_the_start: of both, what is there before the base.
        rows: of a CPU's memory, of all sets: see `NamedSets.held_bytes` and `left_by_rows`; 0 where
            they are not here.
        phases: {"loading", "training_step", "optimizer_step", "rollout", "validation",
            "evaluation"}: the most in each, without those that the run has not; of a warm start
            "warm_start_step" and "warm_start_validation".
        shape: the micro-batch.
        assumed: why that is no real one; None: it is.
        estimated: the line of the model's code at which the rehearsal of its passes ended; None: it
            did not.
        rollouts: of a policy gradient; None: it is SFT.
        evaluation: what the final evaluation takes beside weights and adapter; None: there is none,
            or it could not be rehearsed.
        evaluation_assumed: whether that is of assumed rows.
    """

    activations: int
    working: int
    loss: int
    dense_copies: int
    holes: int
    libraries: int
    loading_libraries: int
    held_from_the_start: int
    rows: int
    phases: Mapping[str, int]
    shape: BatchShape
    assumed: str | None = None
    estimated: str | None = None
    rollouts: Rollouts | None = None
    evaluation: EvaluationBytes | None = None
    evaluation_assumed: bool = False

    @property
    def peak(self) -> int:
        """The largest of all phases."""
        return max(self.phases.values())

    @property
    def completions_at_a_time(self) -> int | None:
        """That are written together in phase "rollout"; None: there is none."""
        if self.rollouts is None or "rollout" not in self.phases:
            return None
        return min(self.rollouts.at_a_time, len(self.rollouts.prompts))

    def notes(self) -> list[str]:
        """What a reader should know about these numbers."""
        found = []
        if self.assumed is not None:
            found.append(f"activations are of an assumed micro-batch: {self.assumed}")
        if self.estimated is not None:
            found.append(
                "activations are a rough estimate: without data the passes of this model cannot be "
                f"gone through, for its code asks for numbers that it computes ({self.estimated}); "
                "completions and answers are not in it"
            )
        if self.evaluation_assumed:
            found.append(
                "evaluation is of assumed rows: questions and answers as long as the longest "
                "example, of each set as many as evaluate.max_generated allows"
            )
        return found

    def parts(self) -> dict[str, int]:
        """What there is in a training step beside `Memory`'s parts, and in the evaluation at its
        highest, for JSON."""
        of_answers = {} if self.evaluation is None else self.evaluation.at_peak()
        return of_answers | {
            "working": self.working,
            "loss": self.loss,
            "dense_copies": self.dense_copies,
            "holes": self.holes,
            "libraries": self.libraries,
            "loading_libraries": self.loading_libraries,
            "rows": self.rows,
        }

    def micro_batch(self) -> dict[str, Any]:
        """The worst one, for JSON."""
        return {
            "tokens": self.shape.num_tokens,
            "examples": len(self.shape.lengths),
            "longest": max(self.shape.lengths),
            "trained_tokens": self.shape.num_trained,
            "packed": self.shape.packed,
            "assumed": self.assumed,
        }


def find_peaks(
    blueprint: Blueprint,
    memory: Memory,
    state: StatePlan,
    division: Division,
    worst: Worst,
    measured: WorstEvaluation | None,
    wanted: EvaluateSection,
    *,
    quantization: str,
    row_bytes: int = 0,
    compact_heap: bool = False,
    rollouts: Rollouts | None = None,
) -> Peaks:
    """Rehearse the worst micro-batches and sum up.

    Args:
        blueprint: base and adapter.
        memory: what is there all the time.
        state: of the optimizer.
        division: recompute and dense copies.
        worst: micro-batches.
        measured: passes of the final evaluation; None: there is none.
        wanted: what it asks for.
        quantization: that the base is loaded with.
        row_bytes: that the rows take in the host's memory.
        compact_heap: see `train/heap.py`.
        rollouts: of a policy gradient; None: it is SFT.
    """
    device_type = blueprint.device_type
    on_cpu = device_type == "cpu"
    heap = Heap(LARGE_BYTES if compact_heap else None) if on_cpu else None
    copies = blueprint.copy_bytes if division.dense_copies else 0
    estimated = None
    validation = evaluation = generation = None

    def passes(shape: BatchShape, *, trains: bool) -> PassBytes:
        policy, dense = division.recompute_policy, copies > 0
        return blueprint.passes(
            shape,
            policy,
            trains=trains,
            dense=dense,
            heap=heap,
            of_policy=rollouts is not None,
        )

    try:
        training = [(passes(shape, trains=True), shape) for shape in worst.training]
        if worst.validation is not None:
            validation = passes(worst.validation, trains=False).peak
        if measured is not None:
            evaluation = blueprint.evaluation(measured, wanted.max_new_tokens, heap=heap)
        if rollouts is not None and not rollouts.on_server:
            answered = rollouts.as_evaluation(packed=division.packed)
            most = rollouts.max_completion_length
            generation = blueprint.evaluation(answered, most, heap=heap)
    except (RuntimeError, TypeError) as error:
        if not asks_for_data(error):
            raise
        estimated = where_data_is_asked(error)
        log.info("the passes cannot be rehearsed (%s); they are estimated", estimated)
        layers = blueprint.layers.bytes
        training = [(_estimated(layers, division, shape), shape) for shape in worst.training]
        if worst.validation is not None:
            validation = _one_layer(layers, worst.validation)
        evaluation = generation = None
    largest, shape = max(training, key=lambda pair: pair[0].peak)
    kept = max(one.kept for one, _ in training)
    held = held_from_the_start(blueprint.model.config) if on_cpu else 0
    # The passes of an evaluation call no op that training does not.
    called = frozenset().union(*(one.ops for one, _ in training))
    is_compiled = estimated is not None or quantization in BLOCKWISE or bool(called & COMPILED)
    computing = COMPUTING if is_compiled else COMPUTING - COMPILER
    libraries = held + computing if on_cpu else 0
    loading_libraries = held + libraries_of_loading(quantization) if on_cpu else 0
    rows = row_bytes if on_cpu else 0
    resident = resident_bytes(memory, device_type) + libraries + rows
    if on_cpu and not copies and memory.largest_weight >= SMALLEST_BYTES:
        resident += memory.largest_weight  # where large weights are unpacked to, one after another
    there = resident + memory.adapter + memory.gradients + memory.optimizer + copies
    # What is offloaded passes the device one tensor at a time.
    loading = resident_bytes(memory, device_type) + memory.loading_peak - memory.weights
    page = max((p.stop - p.start for p in state.layout.pages), default=0)
    temporaries = OPTIMIZER_TEMPORARIES * page * state.layout.dtype.itemsize
    phases = {
        # A large head or embedding is read before the code is here that packs.
        "loading": max(
            loading + loading_libraries, memory.before_packing + held + READING * on_cpu
        ),
        "training_step": there + largest.peak + largest.holes,
        "optimizer_step": there + temporaries,
    }
    if generation is not None:  # between steps: gradients and optimizer stay
        phases["rollout"] = there + generation.peak
    if validation is not None:
        phases["validation"] = there + validation
    if measured is not None:  # after training: gradients, optimizer and dense copies are gone
        of_pass = (
            _largest_pass(blueprint.layers.bytes, measured)
            if evaluation is None
            else evaluation.peak
        )
        phases["evaluation"] = resident + memory.adapter + of_pass
    return Peaks(
        activations=kept,
        working=largest.peak - kept,
        loss=max(0, largest.loss - largest.kept),
        dense_copies=copies,
        holes=largest.holes,
        libraries=libraries,
        loading_libraries=loading_libraries,
        held_from_the_start=held,
        rows=rows,
        phases=phases,
        shape=shape,
        assumed=worst.assumed,
        estimated=estimated,
        rollouts=None if rollouts is None else replace(rollouts, bytes=generation),
        evaluation=evaluation,
        evaluation_assumed=evaluation is not None and measured is not None and measured.assumed,
    )


def resident_bytes(memory: Memory, device_type: str) -> int:
    """Frozen weights on the device, and of those elsewhere the largest on its way."""
    if not memory.by_device:
        return memory.weights
    elsewhere = sum(count for where, count in memory.by_device.items() if where != device_type)
    return memory.by_device.get(device_type, 0) + (memory.largest_weight if elsewhere else 0)


def _estimated(layers: Sequence[LayerBytes], division: Division, shape: BatchShape) -> PassBytes:
    """By what layers keep of a token (see `engine/activations.py`), and one layer once more."""
    levels = division.recompute_policy.levels(layers, shape.num_tokens)
    kept = sum(getattr(b, level) for b, level in zip(layers, levels, strict=True))
    working = max((layer.none for layer in layers), default=0)
    tokens = shape.num_tokens
    return PassBytes(tokens * kept, tokens * kept, tokens * kept, tokens * (kept + working), [])


def _largest_pass(layers: Sequence[LayerBytes], measured: WorstEvaluation) -> int:
    passes = [BatchShape(one.lengths, one.num_trained, measured.packed) for one in measured.losses]
    return max(_one_layer(layers, shape) for shape in passes)


def _one_layer(layers: Sequence[LayerBytes], shape: BatchShape) -> int:
    """A pass that keeps nothing: what one layer makes, by estimate."""
    return shape.num_tokens * max((layer.none for layer in layers), default=0)
