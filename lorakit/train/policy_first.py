"""The worst of a policy gradient before its first step: what does not fit shows at once.

A generation whose completions are all as long as they may be; what is looked back at, and the
forward and backward passes, of the largest micro-batches that may come of one (`policy_worst.py`);
and a step of the optimizer, which it refuses. As in `worst_first.py` nothing of it stays.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from lorakit.generate.longest import longest_passes
from lorakit.train.advantages import Advantages
from lorakit.train.choices import kept_by_layers
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.look_back import look_back
from lorakit.train.modes import training_mode
from lorakit.train.policy_steps import PolicySteps, shares_prompts
from lorakit.train.policy_worst import Answered, PolicyShape, worst_answered
from lorakit.train.question_stream import QuestionStream
from lorakit.train.rollouts import Rollouts
from lorakit.train.setup import Setup
from lorakit.train.step import backward_with_room
from lorakit.train.worst import kept_bytes
from lorakit.train.worst_first import cheapest_changes, same_random_numbers, told_of_refusal

log = logging.getLogger(__name__)


def run_policy_first(
    setup: Setup, stream: QuestionStream, grpo: GRPOSettings, *, samples_here: bool
) -> None:
    """Take the memory that the run will take at its worst.

    Args:
        setup: of the run, its model not in training mode.
        stream: of its questions.
        grpo: rollouts and objective.
        samples_here: whether this process generates; else a server does, in memory of its own.

    Raises:
        RunError: it does not fit; the message says what to change.
    """
    shape = _shape_of(setup, stream, grpo)
    log.info(
        "first completions of %d tokens behind the longest prompts, of up to %d, to see that they "
        "fit",
        shape.max_completion_length,
        shape.prompt_lengths.max(),
    )
    with same_random_numbers(setup.job.model.device):
        if samples_here:
            _roll_out(setup, stream, grpo, shape)
        _train_on(setup, stream, grpo, shape)


def _shape_of(setup: Setup, stream: QuestionStream, grpo: GRPOSettings) -> PolicyShape:
    """What the micro-batches of a run depend on."""
    settings, choices = setup.job.settings, setup.choices
    return PolicyShape(
        stream.prompt_lengths,
        grpo.loss.max_completion_length,
        settings.batch_size,
        grpo.num_generations,
        grpo.cycle(settings.batch_size).prompts,
        choices.micro_batch_tokens,
        choices.packed,
        shares_prompts(packed=choices.packed, drops=setup.job.adapter.dropout.p > 0),
    )


def _roll_out(setup: Setup, stream: QuestionStream, grpo: GRPOSettings, shape: PolicyShape) -> None:
    """The largest passes of a generation."""
    choices = setup.choices
    at_a_time, dense_bytes = choices.completions_at_a_time, choices.dense_bytes
    assert at_a_time is not None and dense_bytes is not None, "this process generates"
    asked = [stream.at(index).prompt_ids for index in shape.longest_first[: shape.num_prompts]]
    prompts = [prompt for prompt in asked for _ in range(grpo.num_generations)]
    at_once, longest = min(at_a_time, len(prompts)), shape.max_completion_length
    what = (
        f"rolling out {at_once} completions at a time, each of up to {longest} tokens behind a "
        f"prompt of up to {len(asked[0])}, does"
    )
    advice = (
        f"grpo.max_batch: {max(1, at_once // 4)}; base.quantization: nf4 (if it is not yet); "
        f"grpo.max_completion_length below {longest}"
    )
    with told_of_refusal(what, advice):
        for _ in longest_passes(
            setup.job.model,
            prompts,
            longest,
            max_batch=at_a_time,
            max_dense_bytes=dense_bytes,
            sampled=True,
        ):
            pass


def _train_on(setup: Setup, stream: QuestionStream, grpo: GRPOSettings, shape: PolicyShape) -> None:
    """The passes over the largest micro-batches, and a step."""
    job, choices = setup.job, setup.choices
    layers, policy = kept_by_layers(job.model), choices.recompute_policy
    what = (
        f"the largest micro-batch of this run, of up to {shape.most_tokens} tokens, the longest "
        f"prompt with its completion {shape.longest}, does"
    )
    advice = [
        *cheapest_changes(shape.longest, job.settings, choices),
        f"grpo.max_completion_length below {shape.max_completion_length}",
    ]
    with told_of_refusal(what, "; ".join(advice)):
        for answered in worst_answered(shape, lambda size: kept_bytes(policy, layers, size)):
            _pass(setup, longest_rollouts(stream, answered, len(grpo.rewards)), grpo)
        setup.optimizer.rehearse()
        setup.optimizer.forget_pages()
        job.adapter.parameters_changed()


def _pass(setup: Setup, rollouts: Rollouts, grpo: GRPOSettings) -> None:
    """Everything that a step asks of a micro-batch."""
    job, choices, whole = setup.job, setup.choices, range(len(rollouts))
    model, adapter, settings = job.model, job.adapter, job.settings
    steps = PolicySteps(
        rollouts,
        grpo,
        batch_size=settings.batch_size,
        seed=settings.seed,
        choices=choices,
        pad_id=job.pad_id,
        drops=adapter.dropout.p > 0,
    )
    look_back(model, adapter, grpo, rollouts, steps, groups=[whole])
    with training_mode(model, adapter, choices.recompute_policy) as recompute:
        if grpo.cycle(settings.batch_size).num_steps > 1:
            rollouts.old_logprobs = steps.logprobs(model, adapter, recompute, groups=[whole])
        batch = steps.batch_of(setup.first_step, whole)
        backward_with_room(model, adapter, setup.optimizer, batch, settings.seed, recompute)


def longest_rollouts(stream: QuestionStream, answered: Answered, num_rewards: int) -> Rollouts:
    """Completions of given lengths as a generation leaves them, a question for each.

    Their tokens are those of the prompt again: experts, if there are any, are chosen by tokens.
    """
    questions = [stream.at(index) for index, _ in answered]
    lengths = [length for _, length in answered]
    ids = [np.resize(q.prompt_ids, n) for q, n in zip(questions, lengths, strict=True)]
    count = len(answered)
    return Rollouts(
        cycle=0,
        questions=questions,
        texts=[""] * count,
        lengths=torch.tensor(lengths),
        token_ids=torch.from_numpy(np.concatenate(ids).astype(np.int32)),
        truncated=torch.zeros(count, dtype=torch.bool),
        rewards=torch.zeros((count, num_rewards), dtype=torch.float64),
        scored=torch.ones((count, num_rewards), dtype=torch.bool),
        rollout_logprobs=torch.zeros(sum(lengths)),
        weighed=Advantages(np.ones(count), np.ones(count), np.ones(count, bool)),
        chosen=np.arange(count),
    )
