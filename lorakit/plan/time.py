"""How long a run takes: its passes one by one, on a machine that says what each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.engine.passes import Pass
from lorakit.plan.machines import Machine
from lorakit.plan.workload import Workload


@dataclass(frozen=True)
class Events:
    """What a run does beside its steps.

    Attributes:
        validations, checkpoints: how often.
        validation: the passes of one validation.
        evaluation: the passes of the loss evaluation, each made with the adapter off and on.
        answers: prompts that are answered, twice; answer_tokens: of an answer, at most.
        prompts: passes that read the prompts.
    """

    validations: int = 0
    checkpoints: int = 0
    validation: Sequence[Pass] = ()
    evaluation: Sequence[Pass] = ()
    answers: int = 0
    answer_tokens: int = 0
    prompts: Sequence[Pass] = ()


@dataclass(frozen=True)
class Seconds:
    """The parts of a run's time.

    Attributes:
        start: until the first step: imports, data, loading.
        training: optimizer steps.
        validation, checkpoints: between them.
        evaluation: losses before and after.
        answers_at_most: generated answers, if none of them ended before its last token; not in
            `total`.
    """

    start: float
    training: float
    validation: float
    checkpoints: float
    evaluation: float
    answers_at_most: float

    @property
    def total(self) -> float:
        """Of all that is known to happen."""
        return self.start + self.training + self.validation + self.checkpoints + self.evaluation

    def to_json(self) -> dict[str, float]:
        """For `plan.json`."""
        return {name: round(value, 3) for name, value in vars(self).items()}


def predict_seconds(
    workload: Workload, events: Events, machine: Machine, *, start: float = 0.0
) -> Seconds:
    """The time of a run.

    Args:
        workload: its training.
        events: what it does beside.
        machine: that it runs on.
        start: seconds that are spent already, or will be before the base is loaded.
    """
    passes = sum(machine.micro_batch(one) for one in workload.passes)
    validation = sum(machine.loss_pass(one) for one in events.validation)
    evaluation = sum(machine.loss_pass(one) for one in events.evaluation)
    reading = sum(machine.loss_pass(one) for one in events.prompts)
    rounds = -(-events.answers // max(1, machine.decode_batch))
    writing = (
        rounds * events.answer_tokens * machine.decode(min(events.answers, machine.decode_batch))
    )
    return Seconds(
        start=start + machine.load,
        training=passes * workload.scale + machine.step * workload.num_steps,
        validation=validation * events.validations,
        checkpoints=machine.checkpoint * events.checkpoints,
        evaluation=2 * evaluation,
        answers_at_most=2 * (reading + writing) if events.answers else 0.0,
    )
