"""Group relative policy optimization of an adapter: the loop.

    cycle:  questions -> G completions of each -> rewards -> advantages of each in its group
            -> num_iterations times through the completions, in clipped steps

A cycle is a function of the weights it begins with and of (seed, cycle); inside of it a checkpoint
holds its completions. So a run that was killed and resumed computes what an uninterrupted one would
have, bit for bit, but for rewards that a clock decides and no checkpoint holds yet. The base never
changes: it is the reference too, with the adapter off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.examples import ExampleSet
from lorakit.data.sources import Row
from lorakit.errors import InterruptionError
from lorakit.progress import Bar
from lorakit.recipe.cycle_sizes import CycleSizes
from lorakit.recipe.reward_names import is_function
from lorakit.train.choices import Completing
from lorakit.train.generation import Generation
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.grpo_state import GRPOState
from lorakit.train.heap import give_free_pages_back
from lorakit.train.identity import columns_hash
from lorakit.train.interrupts import Interrupts
from lorakit.train.look_back import look_back
from lorakit.train.losses import StoppedError
from lorakit.train.modes import training_mode
from lorakit.train.outcome import TrainOutcome, outcome_of
from lorakit.train.policy_first import run_policy_first
from lorakit.train.policy_steps import PolicySteps
from lorakit.train.question_stream import QuestionStream
from lorakit.train.rewards import Rewarder
from lorakit.train.rollouts import Rollouts
from lorakit.train.run import Run
from lorakit.train.samplers import Sampler, sample_here
from lorakit.train.settings import LoopSettings
from lorakit.train.setup import job_of, set_up
from lorakit.train.watch import Watch
from lorakit.train.watched import Watched


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
    sample: Sampler | None = None,
    pad_id: int = 0,
    run_dir: Path | None = None,
    resume: bool = False,
) -> TrainOutcome:
    """Train the adapter attached to `model` by rewards, in place.

    Args:
        model: with an adapter attached; its mode is restored afterwards.
        examples: questions with their right answers: of each, what precedes its last trained span
            is asked, and that span is the reference.
        settings: the loop; `batch_size` counts completions. There is no validation.
        grpo: rollouts, rewards and objective.
        stop_ids: tokens that end a completion, beside the model's own; references end there too.
        repeats: float64 (number of examples,), how often each is asked per epoch; None: once.
        rows: behind the examples, one each: a reward function of one's own is given their columns,
            and errors name them; None: it gets no columns.
        warm_start: JSON values of what the adapter was trained by before, which a resumed run must
            share; None: of nothing.
        sample: who answers the questions; None: this process.
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
    job = job_of(
        model,
        examples,
        settings,
        repeats=repeats,
        pad_id=pad_id,
        run_dir=run_dir,
        resume=resume,
        method=_identity(grpo, stop_ids, warm_start, rows),
        faults=_of_a_validation(settings),
    )
    sizes, seed = grpo.cycle(settings.batch_size), settings.seed
    stream = QuestionStream(examples, repeats, stop_ids, seed=seed, prompts_per_cycle=sizes.prompts)
    most = grpo.loss.max_completion_length
    longest = stream.longest_prompt(model, most)
    completing = Completing(grpo.max_batch, longest, most) if sample is None else None
    with (
        checked_rewarder(grpo, rows) as rewarder,
        set_up(job, longest=longest + most, completing=completing) as setup,
    ):
        if sample is None:
            choices = setup.choices
            grpo = replace(grpo, max_batch=choices.completions_at_a_time)
            sample = partial(sample_here, max_dense_bytes=choices.dense_bytes)
        state = GRPOState(grpo, stream)
        num_steps = stream.count_steps(settings, sizes.num_steps)
        run = Run(
            setup,
            num_steps=num_steps,
            steps_per_epoch=stream.cycles_per_epoch * sizes.num_steps,
            watch=Watch(Watched(settings, num_steps, grpo=grpo)),
            method_state=state,
        )
        run.announce(
            f"{len(examples)} questions, {grpo.num_generations} completions of each",
            f"{settings.batch_size} completions",
        )
        if settings.worst_batch_first and setup.first_step < run.num_steps:
            # Before the run opens: neither its files nor its clock see it.
            run_policy_first(setup, stream, grpo, samples_here=completing is not None)
        stop = _stop_if_asked(setup.caught)
        generation = Generation(
            tokenizer, grpo, rewarder, rows, stream, seed, stop_ids, stop, sample
        )
        with run.opened() as progress:
            loop = _Loop(run, state, generation, settings, sizes, progress)
            while run.counters.step < run.num_steps:
                for half in (loop.generate, loop.learn):
                    half()
                    if run.model.device.type == "cpu":
                        give_free_pages_back()
        return outcome_of(run)


@contextmanager
def checked_rewarder(grpo: GRPOSettings, rows: Sequence[Row] | None) -> Iterator[Rewarder]:
    """What rewards completions, once it was seen that all it needs is there.

    Raises:
        InputError: something is not; with the fix.
    """
    with grpo.rewarder() as rewarder:
        rewarder.check(rows)
        yield rewarder


def _identity(
    grpo: GRPOSettings,
    stop_ids: Sequence[int],
    warm_start: Mapping[str, Any] | None,
    rows: Sequence[Row] | None,
) -> dict[str, Any]:
    # The examples' fingerprint knows what rows mean, not what else stands in them.
    reads = any(is_function(one.scorer) for one in grpo.rewards)
    return {
        "grpo": grpo.identity(),
        "stop_ids": list(stop_ids),
        "warm_start": None if warm_start is None else dict(warm_start),
        "rows": columns_hash(rows) if reads and rows is not None else None,
    }


def _of_a_validation(settings: LoopSettings) -> list[str]:
    return [
        f"{name} needs a validation, which a policy gradient has none of"
        for name in ("eval_steps", "early_stopping_patience")
        if getattr(settings, name) is not None
    ]


def _stop_if_asked(caught: Interrupts) -> Callable[[], None]:
    def stop_if_asked() -> None:
        if caught.received is not None:
            raise StoppedError("rolling out was stopped before it was done")

    return stop_if_asked


@dataclass(frozen=True)
class _Loop:
    """The two halves of a cycle. What stops one of them leaves what there is to the resumed run."""

    run: Run
    state: GRPOState
    generation: Generation
    settings: LoopSettings
    sizes: CycleSizes
    progress: Bar

    def generate(self) -> None:
        """The completions of the cycle that the run is in, with their rewards, as far as they are
        not there."""
        run, state, generation = self.run, self.state, self.generation
        cycle = run.counters.step // self.sizes.num_steps
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
                raise self._interruption() from None
            state.keep_not_scored(generation.tokenizer, run.counters.step + 1)
            raise
        run.count_generation()
        state.keep_samples(generation.tokenizer, state.rollouts)

    def learn(self) -> None:
        """The steps of the cycle that are left, or those up to a signal."""
        try:
            self._learn()
        except StoppedError:
            self.run.save(anew=True)
            raise self._interruption() from None

    def _learn(self) -> None:
        run, state, rollouts = self.run, self.state, self.state.rollouts
        assert rollouts is not None
        steps = self._steps(rollouts)
        stop = min((rollouts.cycle + 1) * self.sizes.num_steps, run.num_steps)
        model, adapter, generation = run.model, run.adapter, self.generation
        stop_if_asked = generation.stop_if_asked
        look_back(model, adapter, generation.grpo, rollouts, steps, stop_if_asked=stop_if_asked)
        with training_mode(model, adapter, run.choices.recompute_policy) as recompute:
            if self.sizes.num_steps > 1 and rollouts.old_logprobs is None:
                rollouts.old_logprobs = steps.logprobs(
                    model, adapter, recompute, stop_if_asked=stop_if_asked
                )
            for step in range(run.counters.step, stop):
                position = step % self.sizes.num_steps
                batch = steps.batch(step, position)
                # Steps before may have had nothing to pass: groups without variance.
                is_first = run.counters.trained_tokens == 0 and bool(batch.micro_batches)
                result = run.take(batch, recompute, looks=is_first)
                if position == 0:
                    state.count_rollouts(rollouts, step + 1)
                state.count_step(steps.statistics())
                # Read at once: what is generated next must come from finite weights.
                run.settle(result, is_latest=True)
                state.tell(run.lines)
                if step + 1 == stop:
                    state.rollouts = None
                interrupted = run.caught.received is not None
                if interrupted or run.saves_at(step + 1):
                    run.save()
                if interrupted:
                    raise run.interruption()
                self.progress.advance(facts=run.facts())

    def _interruption(self) -> InterruptionError:
        """Of a signal before the steps of the cycle."""
        kept = "" if self.state.rollouts is None else ", with the completions that were there"
        return self.run.interruption(kept)

    def _steps(self, rollouts: Rollouts) -> PolicySteps:
        return PolicySteps(
            rollouts,
            self.generation.grpo,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            choices=self.run.choices,
            pad_id=self.run.pad_id,
            drops=self.run.adapter.dropout.p > 0,
        )
