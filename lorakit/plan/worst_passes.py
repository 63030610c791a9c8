"""The passes that a run's memory is planned for: of its steps, and of its final evaluation."""

from __future__ import annotations

from transformers import PreTrainedModel

from lorakit.evaluate.worst import (
    WorstEvaluation,
    assumed_evaluation,
    measures_anything,
    worst_evaluation,
)
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.plan.blueprint import Blueprint
from lorakit.plan.policy import Rollouts, longest_sequence, worst_policy_step
from lorakit.plan.rows import Sets
from lorakit.plan.steps import RunLength
from lorakit.plan.worst import Worst, assumed_length, assumed_worst, real_worst
from lorakit.recipe import Recipe
from lorakit.train.choices import Division, divide
from lorakit.train.settings import LoopSettings


def worst_of_training(
    recipe: Recipe,
    blueprint: Blueprint,
    sets: Sets | None,
    length: RunLength | None,
    rollouts: Rollouts | None,
    *,
    free_bytes: int,
    num_gpus: int,
) -> tuple[Division, Worst]:
    """How training will divide its steps, and the micro-batches of these that take the most.

    Args:
        sets, length: the examples and how long they are trained on; None: they are not here.
        rollouts: of a policy gradient; None: it is SFT.
        free_bytes: that activations could take.
        num_gpus: that share the examples of each step.
    """
    longest = assumed_length(recipe, blueprint.model)
    if sets is not None:
        longest = int(sets.train.lengths.max())
    if rollouts is not None:
        longest = longest_sequence(rollouts, blueprint.model)
    layers = blueprint.layers.bytes
    division = divide(
        blueprint.model,
        LoopSettings.from_section(recipe.train, packing=recipe.data.packing),
        longest=longest,
        device_type=blueprint.device_type,
        free_bytes=free_bytes,
        layers=layers,
        copy_bytes=blueprint.copy_bytes,
    )
    if rollouts is not None:
        drops = blueprint.adapter.dropout.p > 0
        return division, worst_policy_step(
            recipe, rollouts, division, longest, layers=layers, drops=drops
        )
    if sets is None or length is None:
        return division, assumed_worst(
            longest, division, validates=recipe.data.validation is not None
        )
    worst = real_worst(layers, sets, recipe, division, num_steps=length.steps, world_size=num_gpus)
    return division, worst


def worst_of_evaluation(
    recipe: Recipe,
    model: PreTrainedModel,
    sets: Sets | None,
    *,
    packed: bool,
    free_bytes: int | None,
) -> WorstEvaluation | None:
    """The passes of the final evaluation; of sets that are not here, those that they may have.

    Args:
        packed: whether examples share a row.
        free_bytes: that the evaluation may take beside weights and adapter; None: not known.
    """
    budget = recipe.train.forward_tokens

    def room() -> AnswerRoom:
        wanted = recipe.evaluate
        return AnswerRoom.of(
            model,
            max_new_tokens=wanted.max_new_tokens,
            given=wanted.max_batch,
            free_bytes=free_bytes,
        )

    if sets is not None and sets.has_held_out:
        if not sets.evaluation:
            return None
        return worst_evaluation(
            sets.evaluation,
            sets.train,
            recipe.evaluate,
            room(),
            seed=recipe.train.seed,
            token_budget=budget,
            packed=packed,
        )
    if not measures_anything(recipe):
        return None
    longest = assumed_length(recipe, model) if sets is None else int(sets.train.lengths.max())
    return assumed_evaluation(recipe, room(), longest=longest, token_budget=budget, packed=packed)
