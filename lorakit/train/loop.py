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
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from lorakit.adapters.attach import attached
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order
from lorakit.engine.recompute import Recompute
from lorakit.progress import bar
from lorakit.train.batches import StepBatches
from lorakit.train.checks import check_sets
from lorakit.train.faults import every_tensor_trains
from lorakit.train.identity import run_identity
from lorakit.train.interrupts import Interrupts
from lorakit.train.modes import training_mode
from lorakit.train.outcome import TrainOutcome, outcome_of
from lorakit.train.ranks import Ranks
from lorakit.train.run import Run
from lorakit.train.settings import LoopSettings
from lorakit.train.setup import check_folder, set_up
from lorakit.train.step import StepResult, compute_device, take_step
from lorakit.train.worst_first import run_worst_first

log = logging.getLogger(__name__)


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
    identity = run_identity(
        model,
        adapter,
        examples,
        settings,
        repeats=repeats,
        validation=validation,
        world_size=world_size,
    )
    with (
        set_up(
            model,
            adapter,
            settings,
            ranks,
            identity,
            longest=int(examples.lengths.max()),
            run_dir=run_dir,
            resume=resume,
        ) as setup,
        training_mode(model, adapter, setup.choices.recompute_policy) as recompute,
    ):
        choices, caught = setup.choices, setup.caught
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
        run = Run(
            model,
            adapter,
            setup.optimizer,
            settings,
            choices,
            num_steps=batches.count_steps(settings.num_train_epochs, settings.max_steps),
            steps_per_epoch=batches.steps_per_epoch,
            validation=validation,
            pad_id=pad_id,
            writes=ranks.writes,
            should_stop=lambda: caught.received is not None,
            run_dir=run_dir,
            store=setup.store,
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
                setup.optimizer,
                batches,
                range(setup.first_step, run.num_steps),
                validation=validation,
                settings=settings,
                choices=choices,
                recompute=recompute,
                pad_id=pad_id,
            )
        try:
            run.open(setup.checkpoint)
            _take_steps(run, batches, settings, recompute, caught, ranks)
        finally:
            run.close()
        run.finish()
        return outcome_of(run)


def _take_steps(
    run: Run,
    batches: StepBatches,
    settings: LoopSettings,
    recompute: Recompute,
    caught: Interrupts,
    ranks: Ranks,
) -> None:
    """All steps that are left, or those up to a signal or early stopping."""
    schedule = settings.schedule(run.num_steps)
    first = run.counters.step
    if ranks.any(run.counters.due_line is not None):
        # A signal while the validation that a signal had cut short was caught up on.
        raise run.interruption(caught.received)
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
                raise run.interruption(caught.received)
            progress.advance(facts=run.facts())
    if caught.received is not None:
        raise run.interruption(caught.received)


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
    check_folder(settings, run_dir, resume, faults=faults)
