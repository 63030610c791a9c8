"""The training loop.

A run is a pure function of its inputs: data order and dropout masks come from the seed and the
step, so a checkpoint is the parameters, the optimizer's moments and a few counters, and a run that
was killed and resumed computes what an uninterrupted one would have, bit for bit.

The host does not wait for the device inside a step: it reads the numbers of a step while the next
one computes. If a step turns out not to be finite, neither of the two has changed a weight, because
the optimizer refuses from the first bad step on.
"""

from __future__ import annotations

import logging
import signal
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import attached
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order
from lorakit.engine.dense_copies import dense_copies
from lorakit.engine.recompute import Recompute
from lorakit.errors import CheckpointError, InputError
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.progress import bar
from lorakit.train.batches import StepBatches
from lorakit.train.checkpoint import Checkpoint, CheckpointStore
from lorakit.train.checks import check_sets
from lorakit.train.choices import Choices, make_choices, replay_choices
from lorakit.train.faults import every_tensor_trains
from lorakit.train.heap import give_large_tensors_back
from lorakit.train.identity import run_identity
from lorakit.train.interrupts import InterruptionError, Interrupts, interrupts
from lorakit.train.lock import run_lock
from lorakit.train.memory import free_bytes
from lorakit.train.modes import compute_dtype, cpu_threads, training_mode
from lorakit.train.ranks import Ranks
from lorakit.train.run import FINISHED, Run
from lorakit.train.schedule import Schedule, count_warmup_steps
from lorakit.train.settings import LoopSettings
from lorakit.train.step import StepResult, compute_device, take_step
from lorakit.train.worst_first import run_worst_first

CHECKPOINTS_NAME = "checkpoints"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOutcome:
    """How a run went.

    Attributes:
        steps: optimizer steps done.
        stopped: "finished" or "early stopping".
        tokens, trained_tokens: seen, padding not counted.
        seconds: spent in training steps, earlier processes included.
        loss: of the last line of the metrics.
        validation_loss: of the weights the model now has; None without validation.
        best_step: the step whose weights the model now has, with early stopping; otherwise None.
        metrics: the lines of metrics.jsonl.
        choices: what the engine decided.
        optimizer: its form, the bytes of its state, the pages that moved (see `AdamW.facts`).
    """

    steps: int
    stopped: str
    tokens: int
    trained_tokens: int
    seconds: float
    loss: float | None
    validation_loss: float | None
    best_step: int | None
    metrics: list[dict[str, Any]]
    choices: Choices
    optimizer: dict[str, int | str]

    def to_json(self) -> dict[str, Any]:
        """Everything but the metrics, which have a file of their own."""
        values = {name: value for name, value in vars(self).items() if name != "metrics"}
        return values | {"choices": self.choices.to_json()}


def train(
    model: PreTrainedModel,
    examples: ExampleSet,
    settings: LoopSettings,
    *,
    repeats: np.ndarray | None = None,
    validation: ExampleSet | None = None,
    pad_id: int = 0,
    run_dir: Path | None = None,
    resume: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> TrainOutcome:
    """Train the adapter attached to `model`, in place.

    Args:
        model: with an adapter attached; its mode is restored afterwards.
        examples: to train on, each with at least one trained token.
        settings: how.
        repeats: float64 (number of examples,), how often each is seen per epoch; None: once.
        validation: held-out examples; None: no validation.
        pad_id: token id for padding.
        run_dir: where choices.json, metrics.jsonl and checkpoints/ go; None: nothing is written.
        resume: go on from the newest whole checkpoint in `run_dir`.
        rank, world_size: this process and how many there are; gradients are summed over all.

    Returns:
        How it went; the model has the last weights, or with early stopping the best ones.

    Raises:
        InputError: settings, data or model that cannot work; nothing was written.
        CheckpointError: nothing to resume, no whole checkpoint, or one of another run.
        NonFiniteError: a loss or gradient became NaN or infinite; the weights and the last
            checkpoint are those from before.
        InterruptionError: SIGTERM or Ctrl-C; the run was saved.
        RunError: a checkpoint could not be written, or another process uses `run_dir`.
    """
    adapter = attached(model)
    refuse_trained_routers(adapter)
    check_sets(model, {"train": examples, "validation": validation})
    epoch_order(len(examples), repeats, settings.seed, 0)  # refuses an epoch without examples
    _check(settings, validation, run_dir, resume)
    ranks = Ranks(rank, world_size, compute_device(model))
    ranks.check()
    state_plan = state_plan_of(model, adapter.parameters(), settings, ranks.device.type)
    if settings.compact_heap and ranks.device.type == "cpu":
        give_large_tensors_back()
    with ExitStack() as stack:
        if run_dir is not None and ranks.writes:
            stack.enter_context(run_lock(run_dir))
        identity = run_identity(
            model,
            adapter,
            examples,
            settings,
            repeats=repeats,
            validation=validation,
            world_size=world_size,
        )
        with ranks.writer_first():
            store, checkpoint = _open_store(run_dir, identity, settings, resume, ranks)
        choices = _choices(checkpoint, model, examples, settings, ranks)
        stack.enter_context(cpu_threads(choices.num_threads))
        if choices.kernels == kernels.REFERENCE:
            stack.enter_context(kernels.reference_only())
        if choices.dense_copies:
            stack.enter_context(dense_copies(model, compute_dtype(model)))
        recompute = stack.enter_context(training_mode(model, adapter, choices.recompute_policy))
        optimizer = AdamW(adapter.parameters(), state_plan, rule=_rule(settings))
        stack.callback(optimizer.release)
        batches = StepBatches(
            examples,
            repeats,
            batch_size=settings.batch_size,
            seed=settings.seed,
            token_budget=choices.micro_batch_tokens,
            packed=choices.packed,
            pad_id=pad_id,
            rank=rank,
            world_size=world_size,
        )
        caught = stack.enter_context(interrupts())
        run = Run(
            model,
            adapter,
            optimizer,
            settings,
            choices,
            num_steps=batches.count_steps(settings.num_train_epochs, settings.max_steps),
            steps_per_epoch=batches.steps_per_epoch,
            validation=validation,
            pad_id=pad_id,
            writes=ranks.writes,
            should_stop=lambda: caught.received is not None,
            run_dir=run_dir,
            store=store,
        )
        if ranks.writes:
            log.info(
                "training %s parameters on %d examples: %d steps of up to %d examples, "
                "learning rate %g (%s)",
                f"{adapter.trainable:,}",
                len(examples),
                run.num_steps,
                settings.batch_size,
                settings.learning_rate,
                settings.lr_scheduler_type,
            )
        if settings.worst_batch_first:
            # Before the run opens: neither its files nor its clock see it.
            run_worst_first(
                model,
                adapter,
                optimizer,
                batches,
                range(0 if checkpoint is None else checkpoint.step, run.num_steps),
                validation=validation,
                settings=settings,
                choices=choices,
                recompute=recompute,
                pad_id=pad_id,
            )
        run.open(checkpoint)
        stack.callback(run.close)
        _take_steps(run, batches, settings, recompute, caught, ranks)
        run.finish()
        return _outcome(run)


def _take_steps(
    run: Run,
    batches: StepBatches,
    settings: LoopSettings,
    recompute: Recompute,
    caught: Interrupts,
    ranks: Ranks,
) -> None:
    """All steps that are left, or those up to a signal or early stopping."""
    schedule = _schedule(settings, run.num_steps)
    first = run.counters.step
    if ranks.any(run.counters.due_line is not None):
        # A signal while the validation that a signal had cut short was caught up on.
        raise _interruption(run, caught.received)
    pending: StepResult | None = None
    with bar("training", run.num_steps) as progress:
        progress.advance(first)
        for step in range(first, run.num_steps):
            if run.counters.stopped is not None:
                return
            with every_tensor_trains(run.model, run.adapter) if step == first else nullcontext():
                result = take_step(
                    run.model,
                    run.adapter,
                    run.optimizer,
                    batches[step],
                    learning_rate=schedule.learning_rate(step),
                    max_grad_norm=settings.max_grad_norm,
                    seed=settings.seed,
                    recompute=recompute,
                    sum_over_ranks=ranks.sum,
                )
            if pending is not None:
                run.settle(pending, is_latest=False)
            pending = result
            interrupted = ranks.any(caught.received is not None)
            if interrupted or run.pauses_at(step + 1):
                # Nothing is validated or saved before its numbers are known to be finite.
                run.settle(pending, is_latest=True)
                pending = None
                # A validation takes its time, and a signal cuts it short.
                interrupted = interrupted or ranks.any(caught.received is not None)
                if interrupted or run.saves_at(step + 1) or run.counters.stopped is not None:
                    run.save()
            if interrupted:
                raise _interruption(run, caught.received)
            progress.advance(facts=run.facts())
    if caught.received is not None:
        raise _interruption(run, caught.received)


def _check(
    settings: LoopSettings,
    validation: ExampleSet | None,
    run_dir: Path | None,
    resume: bool,
) -> None:
    faults = []
    if validation is None and settings.early_stopping_patience is not None:
        faults.append("early_stopping_patience needs validation examples; give data.validation")
    if validation is None and settings.eval_steps is not None:
        faults.append("eval_steps needs validation examples; give data.validation")
    if run_dir is None and settings.save_steps is not None:
        faults.append("save_steps needs a run folder to save to; give output.dir (output_dir)")
    if run_dir is None and resume:
        faults.append("resuming needs the run folder to go on from; give output.dir (output_dir)")
    if faults:
        raise InputError(f"{'; '.join(faults)}; or remove the option.")
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
    examples: ExampleSet,
    settings: LoopSettings,
    ranks: Ranks,
) -> Choices:
    if checkpoint is not None:
        return replay_choices(checkpoint.state["choices"], model, settings, ranks.device)
    # The same on all ranks, or they would decide differently.
    free = ranks.smallest(free_bytes(ranks.device))
    return make_choices(model, examples, settings, ranks.device, free_bytes=free)


def _rule(settings: LoopSettings) -> AdamWRule:
    return AdamWRule(
        betas=(settings.adam_beta1, settings.adam_beta2),
        epsilon=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )


def _schedule(settings: LoopSettings, num_steps: int) -> Schedule:
    num_warmup_steps = count_warmup_steps(
        num_steps, warmup_steps=settings.warmup_steps, warmup_ratio=settings.warmup_ratio
    )
    return Schedule(settings.lr_scheduler_type, settings.learning_rate, num_steps, num_warmup_steps)


def _interruption(run: Run, received: signal.Signals | None) -> InterruptionError:
    # On a rank that got no signal itself, another one did.
    number = received or signal.SIGTERM
    place = run.last_checkpoint()
    saved = "nothing was saved: no run folder was given" if place is None else f"saved {place}"
    return InterruptionError(
        f"stopped by {number.name} after step {run.counters.step} of {run.num_steps}; {saved}. "
        "Resume the run to go on.",
        number,
    )


def _outcome(run: Run) -> TrainOutcome:
    counters = run.counters
    early = run.stopping.patience is not None
    return TrainOutcome(
        steps=counters.step,
        stopped=counters.stopped or FINISHED,
        tokens=counters.tokens,
        trained_tokens=counters.trained_tokens,
        seconds=counters.seconds,
        loss=counters.last_loss,
        validation_loss=run.stopping.best_loss if early else counters.last_validation_loss,
        best_step=run.stopping.best_step if early else None,
        metrics=run.lines,
        choices=run.choices,
        optimizer=run.optimizer.facts(),
    )
