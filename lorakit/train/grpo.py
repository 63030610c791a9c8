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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import adapter_disabled, attached
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.base.eval_mode import eval_mode
from lorakit.data.examples import ExampleSet
from lorakit.data.sources import Row
from lorakit.progress import Bar, bar
from lorakit.train.checks import check_sets
from lorakit.train.faults import every_tensor_trains
from lorakit.train.generation import Generation
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
from lorakit.train.rewards import Rewarder
from lorakit.train.run import Run
from lorakit.train.samplers import Sampler, sample_here
from lorakit.train.settings import LoopSettings
from lorakit.train.setup import check_folder, set_up
from lorakit.train.step import compute_device, take_step

ROWS_READ = 100  # to see which columns a data set has

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
    rows: Sequence[Row] | None = None,
    warm_start: Mapping[str, Any] | None = None,
    sample: Sampler = sample_here,
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
            `worst_batch_first` has no effect but that this is said.
        grpo: rollouts, rewards and objective.
        stop_ids: tokens that end a completion, beside the model's own; references end there too.
        repeats: float64 (number of examples,), how often each is asked per epoch; None: once.
        rows: behind the examples, one each: a reward function of one's own is given their columns,
            and errors name them; None: it gets no columns.
        warm_start: JSON values of what the adapter was trained by before, which a resumed run must
            share; None: of nothing.
        sample: who answers the questions.
        pad_id: token id for padding.
        run_dir: where choices.json, metrics.jsonl, completions.jsonl and checkpoints/ go; None:
            nothing is written.
        resume: go on from the newest whole checkpoint in `run_dir`.

    Returns:
        How it went; the model has the last weights. `loss` is near 0 and says nothing.

    Raises:
        InputError: settings, data or model that cannot work; nothing was written.
        RunError: a reward failed; the completions are saved, and a resumed run asks for the rewards
            that are missing.
        CheckpointError, NonFiniteError, InterruptionError: see `loop.train`.
    """
    adapter = attached(model)
    refuse_trained_routers(adapter)
    check_sets(model, {"train": examples})
    _check(settings, run_dir, resume)
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
        method={
            "grpo": grpo.identity(),
            "stop_ids": list(stop_ids),
            "warm_start": None if warm_start is None else dict(warm_start),
        },
    )
    with (
        checked_rewarder(grpo, rows) as rewarder,
        set_up(
            model,
            adapter,
            settings,
            ranks,
            identity,
            longest=longest + grpo.loss.max_completion_length,
            run_dir=run_dir,
            resume=resume,
        ) as setup,
    ):
        state = GRPOState(grpo, stream)
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
        _say(run, grpo, len(examples), settings)
        generation = Generation(
            tokenizer,
            grpo,
            rewarder,
            rows,
            stream,
            settings.seed,
            stop_ids,
            _stop_if_asked(setup.caught),
            sample,
        )
        try:
            run.open(setup.checkpoint)
            state.open(run_dir, run.counters.step)
            with bar("training", run.num_steps) as progress:
                progress.advance(run.counters.step)
                while run.counters.step < run.num_steps:
                    _generate(run, state, generation, setup.caught)
                    _learn(run, state, settings, grpo, setup.caught, progress)
        finally:
            run.close()
            state.close()
        run.finish()
        return outcome_of(run)


@contextmanager
def checked_rewarder(grpo: GRPOSettings, rows: Sequence[Row] | None) -> Iterator[Rewarder]:
    """What rewards completions, once it was seen that all it needs is there.

    Raises:
        InputError: something is not; with the fix.
    """
    looked_at = [] if rows is None else [rows[i].values for i in range(min(len(rows), ROWS_READ))]
    columns = dict.fromkeys(name for values in looked_at for name in values)
    with grpo.rewarder() as rewarder:
        rewarder.check(list(columns))
        yield rewarder


def _say(run: Run, grpo: GRPOSettings, num_questions: int, settings: LoopSettings) -> None:
    log.info(
        "training %s parameters on %d questions, %d completions of each: %d steps of %d "
        "completions, learning rate %g (%s)",
        f"{run.adapter.trainable:,}",
        num_questions,
        grpo.num_generations,
        run.num_steps,
        settings.batch_size,
        settings.learning_rate,
        settings.lr_scheduler_type,
    )
    if settings.worst_batch_first:
        log.info(
            "worst_batch_first: a policy's largest micro-batch is not tried before its first step, "
            "because its completions are not there yet; memory may run out later"
        )


def _stop_if_asked(caught: Interrupts) -> Callable[[], None]:
    def stop_if_asked() -> None:
        if caught.received is not None:
            raise StoppedError("rolling out was stopped before it was done")

    return stop_if_asked


def _generate(run: Run, state: GRPOState, generation: Generation, caught: Interrupts) -> None:
    """The completions of the cycle that the run is in, with their rewards, as far as they are not
    there. What stops this leaves what there is to the resumed run."""
    cycle = run.counters.step // generation.grpo.steps_per_cycle
    try:
        if state.rollouts is None:
            state.rollouts = generation.advance(run.model, cycle, None)
        generation.reward(state.rollouts)
        while not generation.is_whole(state.rollouts):
            state.rollouts = generation.advance(run.model, cycle, state.rollouts)
            generation.reward(state.rollouts)
        generation.stop_if_asked()
    except Exception as error:
        run.count_generation()
        run.save(anew=state.rollouts is not None)
        if isinstance(error, StoppedError):
            raise run.interruption(caught.received) from None
        raise
    run.count_generation()
    state.keep_samples(generation.tokenizer, state.rollouts)


def _learn(
    run: Run,
    state: GRPOState,
    settings: LoopSettings,
    grpo: GRPOSettings,
    caught: Interrupts,
    progress: Bar,
) -> None:
    """The steps of the cycle that are left, or those up to a signal."""
    model, adapter, rollouts = run.model, run.adapter, state.rollouts
    assert rollouts is not None
    steps = PolicySteps(
        rollouts,
        grpo,
        batch_size=settings.batch_size,
        seed=settings.seed,
        choices=run.choices,
        pad_id=run.pad_id,
        drops=adapter.dropout.p > 0,
    )
    schedule = settings.schedule(run.num_steps)
    first = run.counters.step
    stop = min((rollouts.cycle + 1) * grpo.steps_per_cycle, run.num_steps)
    if grpo.loss.beta != 0 and rollouts.ref_logps is None:
        with eval_mode(model), adapter_disabled(model):
            rollouts.ref_logps = steps.logprobs(model, adapter)
    is_corrected = grpo.rollout_importance_sampling_mode is not None
    if is_corrected and adapter.dropout.p > 0 and rollouts.undropped_logps is None:
        with eval_mode(model):
            rollouts.undropped_logps = steps.logprobs(model, adapter)
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
            if step % grpo.steps_per_cycle == 0:
                state.count_rollouts(rollouts, step + 1)
            state.count_step(steps.statistics())
            # Read at once: what is generated next must come from finite weights.
            run.settle(result, is_latest=True)
            state.tell(run.lines)
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
