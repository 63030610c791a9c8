"""The training loop.

A run is a pure function of its inputs: data order and dropout masks come from the seed and the
step, so a checkpoint is the parameters, the optimizer's moments and a few counters, and a run that
was killed and resumed computes what an uninterrupted one would have, bit for bit.

The host does not wait for the device inside a step: it reads the numbers of a step while the next
one computes. If a step turns out not to be finite, neither of the two has changed a weight, because
the optimizer refuses from the first bad step on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.engine.recompute import Recompute
from lorakit.progress import Bar
from lorakit.train.batches import StepBatches
from lorakit.train.modes import training_mode
from lorakit.train.outcome import TrainOutcome, outcome_of
from lorakit.train.ranks import Ranks
from lorakit.train.run import Run
from lorakit.train.settings import LoopSettings
from lorakit.train.setup import job_of, set_up
from lorakit.train.step import StepResult
from lorakit.train.watch import Watch
from lorakit.train.watched import Watched
from lorakit.train.worst_first import run_worst_first


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
    job = job_of(
        model,
        examples,
        settings,
        repeats=repeats,
        validation=validation,
        pad_id=pad_id,
        run_dir=run_dir,
        resume=resume,
        rank=rank,
        world_size=world_size,
        faults=[] if validation is not None else _without_validation(settings),
    )
    with (
        set_up(job, longest=int(examples.lengths.max())) as setup,
        training_mode(model, job.adapter, setup.choices.recompute_policy) as recompute,
    ):
        batches = StepBatches(
            examples,
            repeats,
            batch_size=settings.batch_size,
            seed=settings.seed,
            token_budget=setup.choices.micro_batch_tokens,
            packed=setup.choices.packed,
            pad_id=pad_id,
            rank=rank,
            world_size=world_size,
        )
        num_steps = batches.count_steps(settings.num_train_epochs, settings.max_steps)
        run = Run(
            setup,
            num_steps=num_steps,
            steps_per_epoch=batches.steps_per_epoch,
            watch=Watch(Watched(settings, num_steps)),
        )
        run.announce(f"{len(examples)} examples", f"up to {settings.batch_size} examples")
        if settings.worst_batch_first:
            # Before the run opens: neither its files nor its clock see it.
            run_worst_first(setup, batches, run.num_steps, recompute)
        with run.opened() as progress:
            _take_steps(run, batches, recompute, job.ranks, progress)
        return outcome_of(run)


def _take_steps(
    run: Run, batches: StepBatches, recompute: Recompute, ranks: Ranks, progress: Bar
) -> None:
    """All steps that are left, or those up to a signal or early stopping."""
    caught, first = run.caught, run.counters.step
    if ranks.any(run.counters.due_line is not None):
        # A signal while the validation that a signal had cut short was caught up on.
        raise run.interruption()
    pending: StepResult | None = None
    for step in range(first, run.num_steps):
        if run.counters.stopped is not None:
            return
        result = run.take(batches[step], recompute, looks=step == first)
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
            raise run.interruption()
        progress.advance(facts=run.facts())
    if caught.received is not None:
        raise run.interruption()


def _without_validation(settings: LoopSettings) -> list[str]:
    return [
        f"{name} needs validation examples; give data.validation"
        for name in ("early_stopping_patience", "eval_steps")
        if getattr(settings, name) is not None
    ]
