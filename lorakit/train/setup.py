"""What a run trains with, whatever the method: made before its first step, and taken apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.base.device_memory import free_bytes
from lorakit.engine.dense_copies import dense_copies
from lorakit.errors import CheckpointError, InputError
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.train.checkpoint import Checkpoint, CheckpointStore
from lorakit.train.choices import Choices, make_choices, replay_choices
from lorakit.train.heap import give_large_tensors_back
from lorakit.train.interrupts import Interrupts, interrupts
from lorakit.train.lock import run_lock
from lorakit.train.modes import compute_dtype, cpu_threads
from lorakit.train.ranks import Ranks
from lorakit.train.settings import LoopSettings

CHECKPOINTS_NAME = "checkpoints"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run trains with.

    Attributes:
        optimizer: of the adapter's parameters, which are views of its memory meanwhile.
        choices: made, or replayed from the checkpoint.
        caught: the signal that asks the run to stop.
        store: its checkpoints; None: nothing is written.
        checkpoint: the one to go on from; None: from the start.
    """

    optimizer: AdamW
    choices: Choices
    caught: Interrupts
    store: CheckpointStore | None
    checkpoint: Checkpoint | None

    @property
    def first_step(self) -> int:
        """How many optimizer steps are done."""
        return 0 if self.checkpoint is None else self.checkpoint.step


@contextmanager
def set_up(
    model: PreTrainedModel,
    adapter: Attached,
    settings: LoopSettings,
    ranks: Ranks,
    identity: dict[str, Any],
    *,
    longest: int,
    run_dir: Path | None,
    resume: bool,
) -> Iterator[Setup]:
    """Inside, the run has its folder to itself, computes as was chosen, and catches signals.

    Args:
        identity: of the run, `run_identity`.
        longest: tokens of the longest example.
        run_dir: None: nothing is written.
        resume: go on from the newest whole checkpoint in `run_dir`.

    Raises:
        InputError: settings that cannot work, or a run folder that holds another run.
        CheckpointError: nothing to resume, no whole checkpoint, or one of another run.
        RunError: another process uses `run_dir`.
    """
    state_plan = state_plan_of(model, adapter.parameters(), settings, ranks.device.type)
    if settings.compact_heap and ranks.device.type == "cpu":
        give_large_tensors_back()
    with ExitStack() as stack:
        if run_dir is not None and ranks.writes:
            stack.enter_context(run_lock(run_dir))
        with ranks.writer_first():
            store, checkpoint = _open_store(run_dir, identity, settings, resume, ranks)
        choices = _choices(checkpoint, model, longest, settings, ranks)
        stack.enter_context(cpu_threads(choices.num_threads))
        if choices.kernels == kernels.REFERENCE:
            stack.enter_context(kernels.reference_only())
        if choices.dense_copies:
            stack.enter_context(dense_copies(model, compute_dtype(model)))
        optimizer = AdamW(adapter.parameters(), state_plan, rule=_rule(settings))
        stack.callback(optimizer.release)
        caught = stack.enter_context(interrupts())
        yield Setup(optimizer, choices, caught, store, checkpoint)


def check_folder(
    settings: LoopSettings, run_dir: Path | None, resume: bool, *, faults: Sequence[str] = ()
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
    run_dir: Path | None,
    identity: dict[str, Any],
    settings: LoopSettings,
    resume: bool,
    ranks: Ranks,
) -> tuple[CheckpointStore | None, Checkpoint | None]:
    """The run's checkpoints, and the one to go on from."""
    if run_dir is None:
        return None, None
    store = CheckpointStore(run_dir / CHECKPOINTS_NAME, identity, keep=settings.save_total_limit)
    if ranks.writes:
        store.open()
    steps = store.steps()
    if resume and not steps:
        log.warning("%s was started but has no checkpoint yet: starting over", run_dir)
    if not resume and steps:
        raise InputError(
            f"{run_dir} holds the checkpoints of a run (the last: step {steps[-1]}); training "
            "would mix two runs. Resume it, or choose another output folder."
        )
    return store, store.newest() if steps else None


def _choices(
    checkpoint: Checkpoint | None,
    model: PreTrainedModel,
    longest: int,
    settings: LoopSettings,
    ranks: Ranks,
) -> Choices:
    if checkpoint is not None:
        return replay_choices(checkpoint.state["choices"], model, settings, ranks.device)
    # The same on all ranks, or they would decide differently.
    free = ranks.smallest(free_bytes(ranks.device))
    return make_choices(model, longest, settings, ranks.device, free_bytes=free)


def _rule(settings: LoopSettings) -> AdamWRule:
    return AdamWRule(
        betas=(settings.adam_beta1, settings.adam_beta2),
        epsilon=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )
