"""What a plan says of a run: parameters, bytes by part, steps and tokens, time and money."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lorakit.optimizers.state_plan import StatePlan
from lorakit.plan.answers import Answers
from lorakit.plan.duration import Duration
from lorakit.plan.memory import Memory
from lorakit.plan.peaks import Peaks
from lorakit.plan.rows import Sets


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
