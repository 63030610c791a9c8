"""How long a run takes: its passes one by one, on a machine that says what each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lorakit.engine.passes import Pass
from lorakit.plan.evaluation_work import EvaluationWork, Passes
from lorakit.plan.machines import Machine
from lorakit.plan.policy_work import PolicyWork
from lorakit.plan.workload import Workload

AT_MOST = "_at_most"  # what the names of such parts end with


@dataclass(frozen=True)
class Events:
    """What a run does beside its steps.

    Attributes:
        validations, checkpoints: how often.
        validation: the passes of one validation.
        rehearsed: whether the largest micro-batch is run once before the first step.
        evaluation: after the last.
    """

    validations: int = 0
    checkpoints: int = 0
    validation: Sequence[Pass] = ()
    rehearsed: bool = False
    evaluation: EvaluationWork = field(default_factory=EvaluationWork)


@dataclass(frozen=True)
class Seconds:
    """The parts of a run's time.

    Attributes:
        start: until the first step: imports, data, loading.
        rehearsal: of the largest passes, before the first step.
        training: optimizer steps.
        validation, checkpoints: between them.
        evaluation: losses before and after, options of multiple choice, formulas compared.
        answers_at_most: generated answers, if none of them ended before its last token.
        rollouts_at_most, policy_at_most: of a policy gradient, likewise: generations, and what is
            trained on and looked back at; None: it is SFT. What is at most is not in `total`.
        warm_start: steps, validations and checkpoints of the SFT before; None: there is none.
    """

    start: float
    rehearsal: float
    training: float
    validation: float
    checkpoints: float
    evaluation: float
    answers_at_most: float
    rollouts_at_most: float | None = None
    policy_at_most: float | None = None
    warm_start: float | None = None

    @property
    def is_bound(self) -> bool:
        """Whether most of it is known as at most."""
        return self.policy_at_most is not None

    @property
    def total(self) -> float:
        """Of all that is known to happen."""
        return sum(value for name, value in self._known() if not name.endswith(AT_MOST))

    @property
    def at_most(self) -> float:
        """Of everything, if every completion and answer is as long as it may be."""
        return sum(value for _, value in self._known())

    @property
    def of_steps(self) -> float:
        """Of training alone, with what is between the steps."""
        return self.rehearsal + self.training + self.validation + self.checkpoints

    @property
    def expected(self) -> float:
        """What plans are compared and priced by: of a policy gradient the time at most."""
        return self.at_most if self.is_bound else self.total

    def to_json(self) -> dict[str, float]:
        """For `plan.json`."""
        return {name: round(value, 3) for name, value in self._known()}

    def _known(self) -> list[tuple[str, float]]:
        return [(name, value) for name, value in vars(self).items() if value is not None]


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
    work = events.evaluation
    training = [machine.micro_batch(one) for one in workload.passes]
    validation = [machine.loss_pass(one) for one in events.validation]
    largest = max(training, default=0.0) + max(validation, default=0.0) + machine.step
    passes = _of_passes(machine, (*work.losses, *work.choices))
    return Seconds(
        start=start + machine.load,
        rehearsal=largest if events.rehearsed else 0.0,
        training=sum(training) * workload.scale + machine.step * workload.num_steps,
        validation=sum(validation) * events.validations,
        checkpoints=machine.checkpoint * events.checkpoints,
        evaluation=2 * passes + machine.formulas(work.formulas),
        answers_at_most=_of_answers(machine, work),
    )


def predict_policy(
    work: PolicyWork, events: Events, machine: Machine, *, start: float = 0.0
) -> Seconds:
    """The time of a policy gradient, at most; see `predict_seconds`."""
    plain = predict_seconds(work.workload, events, machine, start=start)
    looked = sum(map(machine.loss_pass, work.workload.passes)) * work.workload.scale
    reading = work.prompt_scale * sum(map(machine.loss_pass, work.prompts))
    writing = work.num_generations * sum(
        -(-count // at_once) * work.completion_tokens * machine.decode(at_once)
        for count in work.at_a_time
        for at_once in [min(count, machine.decode_batch)]
    )
    return replace(
        plain,
        training=0.0,
        policy_at_most=plain.training + work.num_looks * looked,
        rollouts_at_most=reading + writing,
    )


def _of_passes(machine: Machine, several: Sequence[Passes]) -> float:
    """Of passes that measure, each once."""
    return sum(one.times * sum(map(machine.loss_pass, one.passes)) for one in several)


def _of_answers(machine: Machine, work: EvaluationWork) -> float:
    """Of base and tuned."""
    if not work.answers:
        return 0.0
    counts = [work.answers, *([work.answers * work.num_samples] if work.num_samples else [])]
    reading = len(counts) * sum(map(machine.loss_pass, work.prompts))
    writing = 0.0
    for count in counts:
        at_once = max(1, min(work.max_batch, machine.decode_batch, count))
        writing += -(-count // at_once) * work.answer_tokens * machine.decode(at_once)
    return 2 * (reading + writing)
