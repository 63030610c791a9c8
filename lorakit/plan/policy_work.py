"""The passes of a policy gradient if every completion is as long as it may be: at most so many.

Questions are those of the run's rows; a prompt is counted for each of its completions, although a
packed row may hold it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order, packing_of
from lorakit.engine.passes import Pass
from lorakit.plan.policy import Rollouts
from lorakit.plan.steps import RunLength
from lorakit.plan.workload import Workload
from lorakit.recipe import Recipe
from lorakit.recipe.cycle_sizes import cycle_sizes
from lorakit.train.choices import Division

# Questions that are laid out, evenly spread over an epoch; of more rows as many stand for all.
MAX_QUESTIONS = 512


@dataclass(frozen=True)
class PolicyWork:
    """What a run does beside its evaluation.

    Attributes:
        workload: its optimizer steps.
        num_looks: times that each completion passes through the model without being trained: under
            the base (`beta`), before the first of several steps, and with nothing dropped.
        prompts: passes that read questions once, some of the run's; prompt_scale: how many of these
            each of them stands for.
        at_a_time: completions of a generation that are written together, one such batch after the
            other; num_generations: of the run. None where a vLLM server writes them.
        completion_tokens: of one.
    """

    workload: Workload
    num_looks: float
    prompts: Sequence[Pass] = ()
    prompt_scale: float = 0.0
    at_a_time: Sequence[int] = ()
    num_generations: int = 0
    completion_tokens: int = 0


def policy_work(
    recipe: Recipe,
    examples: ExampleSet,
    repeats: np.ndarray,
    length: RunLength,
    rollouts: Rollouts,
    division: Division,
) -> PolicyWork:
    """Go through the questions as the run will.

    Args:
        examples, repeats: the questions, and how often each is asked in an epoch.
        length: of the run.
        division: of its steps.
    """
    train, grpo = recipe.train, recipe.grpo
    cycle = cycle_sizes(grpo, train.batch_size)
    order = epoch_order(len(examples), repeats, train.seed, 0)
    places = np.linspace(0, len(order) - 1, min(len(order), MAX_QUESTIONS)).astype(np.int64)
    asked = (examples.lengths - examples.trained_lengths)[order[places]]
    completion = rollouts.max_completion_length
    sequences = np.repeat(asked + completion, grpo.num_generations)
    steps = [
        _laid_out(sequences[start : start + train.batch_size].tolist(), completion, division)
        for start in range(0, len(sequences), train.batch_size)
    ]
    seen = length.steps * train.batch_size
    workload = Workload(steps, length.steps, seen / len(sequences), division.micro_batch_tokens)
    drops = recipe.adapter.lora_dropout > 0
    corrects = grpo.importance_sampling_mode is not None
    looks = [grpo.beta != 0, cycle.num_steps > 1, corrects and drops]
    num_looks = sum(looks) / cycle.num_iterations  # a completion is trained on so many times
    if rollouts.on_server or rollouts.completions is None:
        return PolicyWork(workload, num_looks)
    together = rollouts.at_a_time
    whole, rest = divmod(cycle.completions, together)
    return PolicyWork(
        workload,
        num_looks,
        [Pass(n, 1, (n,)) for n in asked.tolist()],
        rollouts.completions / grpo.num_generations / len(asked),
        [together] * whole + [rest] * (rest > 0),
        rollouts.completions // cycle.completions,
        completion,
    )


def _laid_out(lengths: list[int], completion: int, division: Division) -> list[Pass]:
    passes = []
    for group in packing_of(division.packed)(lengths, division.micro_batch_tokens):
        rows = [lengths[i] for i in group]
        laid = tuple(rows if division.packed else [max(rows)] * len(rows))
        passes.append(Pass(sum(laid), completion * len(rows), laid))
    return passes
