"""Group relative policy optimization of an adapter: the loop.

    cycle:  questions -> G completions of each -> rewards -> advantages of each in its group
            -> num_iterations times through the completions, in clipped steps

A cycle is a function of the weights it begins with and of (seed, cycle); inside of it a checkpoint
holds its completions. So a run that was killed and resumed computes what an uninterrupted one would
have, bit for bit, but for rewards that a clock decides and no checkpoint holds yet. The base never
changes: it is the reference too, with the adapter off.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import adapter_disabled, attached
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.base.eval_mode import eval_mode
from lorakit.data.examples import ExampleSet
from lorakit.progress import Bar, bar
from lorakit.train.checks import check_sets
from lorakit.train.faults import every_tensor_trains
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.grpo_state import GRPOState
from lorakit.train.identity import run_identity
from lorakit.train.interrupts import Interrupts
from lorakit.train.losses import StoppedError
from lorakit.train.modes import training_mode
from lorakit.train.outcome import TrainOutcome, outcome_of
from lorakit.train.policy_steps import PolicySteps
from lorakit.train.question_stream import QuestionStream
from lorakit.train.ranks import Ranks
from lorakit.train.rewards import check_outside
from lorakit.train.rollouts import Rollouts, Seconds, roll_out
from lorakit.train.run import Run
from lorakit.train.settings import LoopSettings
from lorakit.train.setup import check_folder, set_up
from lorakit.train.step import compute_device, take_step

log = logging.getLogger(__name__)


def train_grpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: ExampleSet,
    settings: LoopSettings,
    grpo: GRPOSettings,
    *,
    stop_ids: tuple[int, ...] = (),
    repeats: np.ndarray | None = None,
    pad_id: int = 0,
    run_dir: Path | None = None,
    resume: bool = False,
) -> TrainOutcome:
    """Train the adapter attached to `model` by rewards, in place.

    Args:
        model: with an adapter attached; its mode is restored afterwards.
        examples: questions with their right answers: of each, what precedes its last trained span
            is asked, and that span is the reference.
        settings: the loop; `batch_size` counts completions. There is no validation, and
            `worst_batch_first` has no effect.
        grpo: rollouts, rewards and objective.
        stop_ids: tokens that end a completion, beside the model's own; references end there too.
        repeats: float64 (number of examples,), how often each is asked per epoch; None: once.
        pad_id: token id for padding.
        run_dir: where choices.json, metrics.jsonl and checkpoints/ go; None: nothing is written.
        resume: go on from the newest whole checkpoint in `run_dir`.

    Returns:
        How it went; the model has the last weights. `loss` is near 0 and says nothing.

    Raises:
        InputError: settings, data or model that cannot work; nothing was written.
        CheckpointError, NonFiniteError, InterruptionError, RunError: see `loop.train`.
    """
    adapter = attached(model)
    refuse_trained_routers(adapter)
    check_sets(model, {"train": examples})
    _check(settings, run_dir, resume)
    check_outside(grpo.rewards)
    stream = QuestionStream(
        examples,
        repeats,
        stop_ids,
        seed=settings.seed,
        prompts_per_cycle=grpo.prompts_per_cycle(settings.batch_size),
    )
    longest = stream.longest_prompt(model, grpo.loss.max_completion_length)
    ranks = Ranks(0, 1, compute_device(model))
    identity = run_identity(
        model,
        adapter,
        examples,
        settings,
        repeats=repeats,
        validation=None,
        world_size=1,
        method={"grpo": grpo.identity(), "stop_ids": list(stop_ids)},
    )
    with set_up(
        model,
        adapter,
        settings,
        ranks,
        identity,
        longest=longest + grpo.loss.max_completion_length,
        run_dir=run_dir,
        resume=resume,
    ) as setup:
        state = GRPOState(grpo, stream.questions)
        run = Run(
            model,
            adapter,
            setup.optimizer,
            settings,
            setup.choices,
            num_steps=stream.count_steps(settings, grpo.steps_per_cycle),
            steps_per_epoch=stream.cycles_per_epoch * grpo.steps_per_cycle,
            validation=None,
            pad_id=pad_id,
            writes=ranks.writes,
            should_stop=lambda: False,
            run_dir=run_dir,
            store=setup.store,
            method_state=state,
        )
        log.info(
            "training %s parameters on %d questions, %d completions of each: %d steps of %d "
            "completions, learning rate %g (%s)",
            f"{adapter.trainable:,}",
            len(examples),
            grpo.num_generations,
            run.num_steps,
            settings.batch_size,
            settings.learning_rate,
            settings.lr_scheduler_type,
        )
        try:
            run.open(setup.checkpoint)
            with bar("training", run.num_steps) as progress:
                progress.advance(run.counters.step)
                while run.counters.step < run.num_steps:
                    seconds = None
                    if state.rollouts is None:
                        state.rollouts, seconds = _roll_out(
                            run, tokenizer, grpo, stream, settings.seed, stop_ids, setup.caught
                        )
                    steps = PolicySteps(
                        state.rollouts,
                        grpo,
                        batch_size=settings.batch_size,
                        seed=settings.seed,
                        choices=setup.choices,
                        pad_id=pad_id,
                        drops=adapter.dropout.p > 0,
                    )
                    _learn(run, state, steps, settings, grpo, seconds, setup.caught, progress)
        finally:
            run.close()
        run.finish()
        return outcome_of(run)


def _roll_out(
    run: Run,
    tokenizer: PreTrainedTokenizerBase,
    grpo: GRPOSettings,
    stream: QuestionStream,
    seed: int,
    stop_ids: tuple[int, ...],
    caught: Interrupts,
) -> tuple[Rollouts, Seconds]:
    """The completions of the cycle that begins; a signal leaves them to the resumed run."""
    cycle = run.counters.step // grpo.steps_per_cycle

    def stop_if_asked(*_: int) -> None:
        if caught.received is not None:
            raise StoppedError("rolling out was stopped before it was done")

    try:
        return roll_out(
            run.model,
            tokenizer,
            stream.questions(cycle),
            grpo,
            cycle=cycle,
            seed=seed,
            stop_ids=stop_ids,
            on_token=stop_if_asked,
        )
    except StoppedError:
        run.save()
        raise run.interruption(caught.received) from None


def _learn(
    run: Run,
    state: GRPOState,
    steps: PolicySteps,
    settings: LoopSettings,
    grpo: GRPOSettings,
    seconds: Seconds | None,
    caught: Interrupts,
    progress: Bar,
) -> None:
    """The steps of the cycle that are left, or those up to a signal.

    Args:
        seconds: what generating took; None: the completions are a checkpoint's.
    """
    model, adapter, rollouts = run.model, run.adapter, state.rollouts
    assert rollouts is not None
    schedule = settings.schedule(run.num_steps)
    first = run.counters.step
    stop = min((rollouts.cycle + 1) * grpo.steps_per_cycle, run.num_steps)
    if grpo.loss.beta != 0 and rollouts.ref_logps is None:
        with eval_mode(model), adapter_disabled(model):
            rollouts.ref_logps = steps.logprobs(model, adapter)
    with training_mode(model, adapter, run.choices.recompute_policy) as recompute:
        if grpo.steps_per_cycle > 1 and rollouts.old_logps is None:
            rollouts.old_logps = steps.logprobs(model, adapter, recompute)
        for step in range(first, stop):
            with every_tensor_trains(model, adapter) if step == 0 else nullcontext():
                result = take_step(
                    model,
                    adapter,
                    run.optimizer,
                    steps.batch(step, step % grpo.steps_per_cycle),
                    learning_rate=schedule.learning_rate(step),
                    max_grad_norm=settings.max_grad_norm,
                    seed=settings.seed,
                    recompute=recompute,
                )
            if seconds is not None and step == first:
                state.count_rollouts(rollouts, seconds)
            state.count_step(steps.statistics())
            # Read at once: what is generated next must come from finite weights.
            run.settle(result, is_latest=True)
            if step + 1 == stop:
                state.rollouts = None
            interrupted = caught.received is not None
            if interrupted or run.saves_at(step + 1):
                run.save()
            if interrupted:
                raise run.interruption(caught.received)
            progress.advance(facts=run.facts())


def _check(settings: LoopSettings, run_dir: Path | None, resume: bool) -> None:
    faults = [
        f"{name} needs a validation, which a policy gradient has none of"
        for name in ("eval_steps", "early_stopping_patience")
        if getattr(settings, name) is not None
    ]
    check_folder(settings, run_dir, resume, faults=faults)
