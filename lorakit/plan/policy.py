"""What a policy gradient takes: its steps, its longest prompts and completions, its rollouts.

How long completions will be is known when they are made. Everything here is of completions of
`grpo.max_completion_length` tokens, each of the longest prompts, so that it is at most that much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.data.named_sets import context_of
from lorakit.data.pack import epoch_order
from lorakit.data.questions import question
from lorakit.engine.activations import LayerBytes
from lorakit.evaluate.worst import WorstEvaluation
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.plan.evaluation import EvaluationBytes
from lorakit.plan.rehearsal import BatchShape
from lorakit.plan.rows import Sets
from lorakit.plan.steps import RunLength, count_run_length
from lorakit.plan.worst import Worst, assumed_length
from lorakit.recipe import Recipe
from lorakit.recipe.cycle_sizes import cycle_sizes
from lorakit.train.choices import Division
from lorakit.train.policy_steps import shares_prompts
from lorakit.train.policy_worst import Answered, PolicyShape, longest_first, worst_answered
from lorakit.train.question_stream import count_cycles
from lorakit.train.worst import kept_bytes

# Rows whose prompts are looked at: those of the longest rows, and those with the most that is not
# trained, which but for earlier answers of a dialogue is the prompt.
ROWS_LOOKED_AT = 4096


@dataclass(frozen=True)
class Rollouts:
    """The generations of a run.

    Attributes:
        completions: of the whole run; None: how long it is is not known.
        prompts: one each, the longest of a generation, as often as it is completed.
        max_completion_length: of the recipe.
        at_a_time: completions that are written together, if there are so many.
        dense_bytes: that dense weights may take meanwhile.
        assumed: no rows are at hand.
        prompt_lengths: int64 (number of examples,), see the function.
        on_server: a vLLM server generates, in memory of its own.
        bytes: that a generation takes beside weights and training's state; None: it could not be
            rehearsed, or a server does it.
    """

    completions: int | None
    prompts: tuple[tuple[int, ...], ...]
    max_completion_length: int
    at_a_time: int
    dense_bytes: int
    assumed: bool
    prompt_lengths: np.ndarray = field(repr=False, compare=False)
    on_server: bool = False
    bytes: EvaluationBytes | None = None

    def as_evaluation(self, *, packed: bool) -> WorstEvaluation:
        """A generation as an evaluation that does nothing but answer."""
        return WorstEvaluation(
            (),
            False,
            self.prompts,
            0,
            packed,
            self.assumed,
            at_a_time=self.at_a_time,
            dense_bytes=self.dense_bytes,
            sampled=True,
        )

    def to_json(self) -> dict[str, Any]:
        """Its part of `plan.json`."""
        found = self.bytes
        most = None if self.completions is None else self.completions * self.max_completion_length
        return {
            "completions": self.completions,
            "generated_tokens_at_most": most,
            "longest_prompt": max(map(len, self.prompts)),
            "at_a_time": min(self.at_a_time, len(self.prompts)),
            "bytes": None if found is None else found.answers + found.holes,
            "kv_cache": None if found is None else found.kv_cache,
            "dense_weights": None if found is None else found.dense_layers,
            "holes": None if found is None else found.holes,
            "on_server": self.on_server,
        }


def run_length(recipe: Recipe, examples: ExampleSet, repeats: np.ndarray) -> RunLength:
    """Steps and tokens of a run by the recipe's method, without its warm start."""
    train = recipe.train
    if train.method == "grpo":
        return policy_length(recipe, examples, repeats)
    return count_run_length(
        examples,
        repeats,
        batch_size=train.batch_size,
        num_epochs=train.num_train_epochs,
        max_steps=train.max_steps,
        seed=train.seed,
    )


def policy_length(recipe: Recipe, examples: ExampleSet, repeats: np.ndarray) -> RunLength:
    """Optimizer steps, and the tokens that they see at most.

    Args:
        examples, repeats: the questions, and how often each is asked in an epoch.
    """
    train, grpo = recipe.train, recipe.grpo
    order = epoch_order(len(examples), repeats, train.seed, 0)
    cycle = cycle_sizes(grpo, train.batch_size)
    steps = train.max_steps
    if steps is None:
        steps = count_cycles(train.num_train_epochs, len(order), cycle.prompts) * cycle.num_steps
    prompt = float((examples.lengths - examples.trained_lengths)[order].mean())
    completion = grpo.max_completion_length
    seen = steps * train.batch_size
    return RunLength(
        steps,
        int(seen * (prompt + completion)),
        seen * completion,
        exact=True,
        steps_per_epoch=math.ceil(len(order) / cycle.prompts * cycle.num_steps),
    )


def rollouts_of(
    recipe: Recipe,
    model: PreTrainedModel,
    sets: Sets | None,
    length: RunLength | None,
    *,
    free_bytes: int | None,
) -> Rollouts:
    """What is generated, by the longest prompts that there are.

    Args:
        free_bytes: see `AnswerRoom.of`.
    """
    train, grpo = recipe.train, recipe.grpo
    cycle = cycle_sizes(grpo, train.batch_size)
    if sets is None:
        # `data.max_length` is of questions; completions come behind it, as far as the context goes.
        longest = assumed_length(recipe, model)
        if (context := context_of(model.config)) is not None:
            longest = max(1, min(longest, context - grpo.max_completion_length))
        lengths = np.full(cycle.prompts, longest, np.int64)
        prompts = [(0,) * longest] * cycle.prompts
    else:
        lengths = prompt_lengths(sets.train)
        asked = longest_first(lengths, cycle.prompts)[: cycle.prompts]
        prompts = [_prompt_ids(sets.train, index) for index in asked]
    steps = train.max_steps if length is None else length.steps
    cycles = None if steps is None else -(-steps // cycle.num_steps)
    room = AnswerRoom.of(
        model,
        max_new_tokens=grpo.max_completion_length,
        given=grpo.max_batch,
        free_bytes=free_bytes,
    )
    return Rollouts(
        None if cycles is None else cycles * cycle.completions * (1 + grpo.max_resample_times),
        tuple(one for one in prompts for _ in range(grpo.num_generations)),
        grpo.max_completion_length,
        room.at_a_time(max(map(len, prompts))),
        room.dense_bytes,
        assumed=sets is None,
        prompt_lengths=lengths,
        on_server=grpo.use_vllm,
    )


def longest_sequence(rollouts: Rollouts, model: PreTrainedModel) -> int:
    """Tokens of the longest prompt with the longest completion, as far as the context goes."""
    longest = max(map(len, rollouts.prompts)) + rollouts.max_completion_length
    return min(longest, context_of(model.config) or longest)


def worst_policy_step(
    recipe: Recipe,
    rollouts: Rollouts,
    division: Division,
    longest: int,
    *,
    layers: Sequence[LayerBytes],
    drops: bool,
) -> Worst:
    """The micro-batches that the loop tries before its first step (see `policy_worst.py`).

    Args:
        division: of the steps.
        longest: see `longest_sequence`.
        layers: what the layers keep.
        drops: whether the adapter drops values in training.
    """
    train, grpo = recipe.train, recipe.grpo
    shape = PolicyShape(
        rollouts.prompt_lengths,
        max(1, longest - int(rollouts.prompt_lengths.max())),
        train.batch_size,
        grpo.num_generations,
        cycle_sizes(grpo, train.batch_size).prompts,
        division.micro_batch_tokens,
        division.packed,
        shares_prompts(packed=division.packed, drops=drops),
    )
    policy = division.recompute_policy
    found = worst_answered(shape, lambda tokens: kept_bytes(policy, layers, tokens))
    told = (
        "without rows, of the longest that data.max_length allows"
        if rollouts.assumed
        else "completions of up to grpo.max_completion_length tokens behind the longest prompts"
    )
    return Worst(tuple(_laid_out(shape, one) for one in found), None, told)


def _laid_out(shape: PolicyShape, answered: Answered) -> BatchShape:
    prompts = tuple((index, int(shape.prompt_lengths[index])) for index, _ in answered)
    own = [tokens for _, tokens in answered]
    lengths = tuple(prompt + more for (_, prompt), more in zip(prompts, own, strict=True))
    return BatchShape(lengths, sum(own), shape.packed, prompts if shape.shared else ())


def prompt_lengths(examples: ExampleSet) -> np.ndarray:
    """int64 (number of examples,), tokens of each question.

    Read off of the rows that may have the longest; of the others all that is not trained, which but
    for earlier answers of a dialogue is the question.
    """
    lengths = examples.lengths
    untrained = (lengths - examples.trained_lengths).astype(np.int64)
    found = np.maximum(untrained, 1)
    orders = [np.argsort(-sizes, kind="stable")[:ROWS_LOOKED_AT] for sizes in (lengths, untrained)]
    for index in np.unique(np.concatenate(orders)).tolist():
        asked = question(examples[index], index, ())
        if asked is not None:
            found[index] = len(asked.prompt_ids)
    return found


def _prompt_ids(examples: ExampleSet, index: int) -> tuple[int, ...]:
    asked = question(examples[index], index, ())
    return (0, 0) if asked is None else tuple(asked.prompt_ids)
