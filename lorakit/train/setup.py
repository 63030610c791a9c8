"""What a run trains and what it trains with, whatever the method: checked, made before its first
step, and taken apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached, attached
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.base.device_memory import free_bytes
from lorakit.base.dtypes import compute_dtype
from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order
from lorakit.engine.dense_copies import dense_copies
from lorakit.errors import CheckpointError, InputError
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.train.checkpoint import Checkpoint
from lorakit.train.checkpoint_store import CheckpointStore
from lorakit.train.checks import check_sets
from lorakit.train.choices import Choices, Completing, make_choices, replay_choices
from lorakit.train.heap import give_large_tensors_back
from lorakit.train.identity import run_identity
from lorakit.train.interrupts import Interrupts, interrupts
from lorakit.train.lock import run_lock
from lorakit.train.modes import cpu_threads
from lorakit.train.ranks import Ranks
from lorakit.train.settings import LoopSettings
from lorakit.train.step import compute_device

CHECKPOINTS_NAME = "checkpoints"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a run trains, on what and how; `job_of` checks it.

    Attributes:
        model, adapter: what trains.
        examples: to train on.
        settings: how.
        repeats: float64 (number of examples,), how often each is seen per epoch; None: once.
        validation: held-out examples; None: no validation.
        pad_id: token id for padding.
        ranks: this process among those of the run.
        run_dir: where its files go; None: nothing is written.
        resume: go on from the newest whole checkpoint in `run_dir`.
        method: JSON values of a method other than SFT that a resumed run must share.
    """

    model: PreTrainedModel
    adapter: Attached
    examples: ExampleSet
    settings: LoopSettings
    repeats: np.ndarray | None
    validation: ExampleSet | None
    pad_id: int
    ranks: Ranks
    run_dir: Path | None
    resume: bool
    method: Mapping[str, Any] | None

    def identity(self) -> dict[str, Any]:
        """What makes this run this run; see `run_identity`."""
        return run_identity(
            self.model,
            self.adapter,
            self.examples,
            self.settings,
            repeats=self.repeats,
            validation=self.validation,
            world_size=self.ranks.world_size,
            method=self.method,
        )


@dataclass(frozen=True)
class Setup:
    """What a run trains with.

    Attributes:
        job: what it trains.
        optimizer: of the adapter's parameters, which are views of its memory meanwhile.
        choices: made, or replayed from the checkpoint.
        caught: the signal that asks the run to stop.
        store: its checkpoints; None: nothing is written.
        checkpoint: the one to go on from; None: from the start.
    """

    job: Job
    optimizer: AdamW
    choices: Choices
    caught: Interrupts
    store: CheckpointStore | None
    checkpoint: Checkpoint | None

    @property
    def first_step(self) -> int:
        """How many optimizer steps are done."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def own_store(self) -> CheckpointStore | None:
        """`store` in the process that writes it."""
        return self.store if self.job.ranks.writes else None

    def last_checkpoint(self) -> Path | None:
        """Where the newest one is; None where there is none, and in other processes."""
        store = self.own_store
        steps = [] if store is None else store.steps()
        return None if store is None or not steps else store.path(steps[-1])


def job_of(
    model: PreTrainedModel,
    examples: ExampleSet,
    settings: LoopSettings,
    *,
    repeats: np.ndarray | None,
    pad_id: int,
    run_dir: Path | None,
    resume: bool,
    validation: ExampleSet | None = None,
    rank: int = 0,
    world_size: int = 1,
    method: Mapping[str, Any] | None = None,
    faults: Sequence[str] = (),
) -> Job:
    """What every method checks before anything is made.

    Args:
        faults: that the method found in its settings.

    Raises:
        InputError: settings, data or model that cannot work.
        CheckpointError: there is no run to resume.
    """
    adapter = attached(model)
    refuse_trained_routers(adapter)
    check_sets(model, {"train": examples, "validation": validation})
    epoch_order(len(examples), repeats, settings.seed, 0)  # refuses an epoch without examples
    _check_folder(settings, run_dir, resume, faults)
    ranks = Ranks(rank, world_size, compute_device(model))
    ranks.check()
    return Job(
        model,
        adapter,
        examples,
        settings,
        repeats,
        validation,
        pad_id,
        ranks,
        run_dir,
        resume,
        method,
    )


@contextmanager
def set_up(job: Job, *, longest: int, completing: Completing | None = None) -> Iterator[Setup]:
    """Inside, the run has its folder to itself, computes as was chosen, and catches signals.

    Args:
        longest: tokens of the longest example.
        completing: what the run generates itself; None: nothing.

    Raises:
        InputError: settings that cannot work, or a run folder that holds another run.
        CheckpointError: nothing to resume, no whole checkpoint, or one of another run.
        RunError: another process uses `run_dir`.
    """
    model, adapter, settings, ranks = job.model, job.adapter, job.settings, job.ranks
    state_plan = state_plan_of(model, adapter.parameters(), settings, ranks.device.type)
    if settings.compact_heap and ranks.device.type == "cpu":
        give_large_tensors_back()
    identity = job.identity()
    with ExitStack() as stack:
        if job.run_dir is not None and ranks.writes:
            stack.enter_context(run_lock(job.run_dir))
        with ranks.writer_first():
            store, checkpoint = _open_store(job, identity)
        choices = _choices(job, checkpoint, longest, completing)
        stack.enter_context(cpu_threads(choices.num_threads))
        if choices.kernels == kernels.REFERENCE:
            stack.enter_context(kernels.reference_only())
        if choices.dense_copies:
            stack.enter_context(dense_copies(model, compute_dtype(model)))
        optimizer = AdamW(adapter.parameters(), state_plan, rule=_rule(settings))
        stack.callback(optimizer.release)
        caught = stack.enter_context(interrupts())
        yield Setup(job, optimizer, choices, caught, store, checkpoint)


def _check_folder(
    settings: LoopSettings, run_dir: Path | None, resume: bool, faults: Sequence[str]
) -> None:
    """Refuse what cannot be written or gone on from, and whatever else was found at fault.

    Raises:
        InputError: naming all faults.
        CheckpointError: there is no such run folder.
    """
    found = [*faults]
    if run_dir is None and settings.save_steps is not None:
        found.append("save_steps needs a run folder to save to; give output.dir (output_dir)")
    if run_dir is None and resume:
        found.append("resuming needs the run folder to go on from; give output.dir (output_dir)")
    if found:
        raise InputError(f"{'; '.join(found)}; or remove the option.")
    if resume and run_dir is not None and not run_dir.is_dir():
        raise CheckpointError(
            f"{run_dir} does not exist, so there is no run to resume. Check the path, or start "
            "the run without resuming."
        )


def _open_store(
    job: Job, identity: dict[str, Any]
) -> tuple[CheckpointStore | None, Checkpoint | None]:
    """The run's checkpoints, and the one to go on from."""
    run_dir = job.run_dir
    if run_dir is None:
        return None, None
    keep = job.settings.save_total_limit
    store = CheckpointStore(run_dir / CHECKPOINTS_NAME, identity, keep=keep)
    if job.ranks.writes:
        store.open()
    steps = store.steps()
    if job.resume and not steps:
        log.warning("%s was started but has no checkpoint yet: starting over", run_dir)
    if not job.resume and steps:
        raise InputError(
            f"{run_dir} holds the checkpoints of a run (the last: step {steps[-1]}); training "
            "would mix two runs. Resume it, or choose another output folder."
        )
    return store, store.newest() if steps else None


def _choices(
    job: Job, checkpoint: Checkpoint | None, longest: int, completing: Completing | None
) -> Choices:
    model, settings, ranks = job.model, job.settings, job.ranks
    if checkpoint is not None:
        return replay_choices(checkpoint.state["choices"], model, settings, ranks.device)
    # The same on all ranks, or they would decide differently.
    free = ranks.smallest(free_bytes(ranks.device))
    return make_choices(
        model, longest, settings, ranks.device, free_bytes=free, completing=completing
    )


def _rule(settings: LoopSettings) -> AdamWRule:
    return AdamWRule(
        betas=(settings.adam_beta1, settings.adam_beta2),
        epsilon=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )
