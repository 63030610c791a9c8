"""The micro-batches that a run's memory is planned for: real ones, or assumed where no rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.data.named_sets import context_of
from lorakit.engine.activations import LayerBytes
from lorakit.plan.rehearsal import BatchShape
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe
from lorakit.train.batches import StepBatches
from lorakit.train.choices import Division
from lorakit.train.worst import Largest, largest_of_steps, worst_of_set

# Without rows: the tokens of one example, where the recipe names no max_length.
ASSUMED_TOKENS = 2048


@dataclass(frozen=True)
class Worst:
    """The micro-batches that a run's memory is planned for.

    Attributes:
        training: one of them takes the most.
        validation: the largest that is measured between the steps; None: nothing is.
        assumed: see `Peaks`.
    """

    training: tuple[BatchShape, ...]
    validation: BatchShape | None
    assumed: str | None


def real_worst(
    layers: Sequence[LayerBytes],
    sets: Sets,
    recipe: Recipe,
    division: Division,
    *,
    num_steps: int,
    world_size: int = 1,
) -> Worst:
    """The worst of the micro-batches that training will make of `sets`, on any rank, and of those
    that measure the validation set.

    Args:
        layers: what the layers keep, for the levels of recompute.
    """
    largest = _largest(sets, recipe, division, num_steps=num_steps, world_size=world_size)
    worst = largest.worst(division.recompute_policy, layers)
    shapes = dict.fromkeys(_shape(sets.train, group, division) for group in worst.groups)
    measured = None
    if sets.validation is not None:
        group = worst_of_set(
            sets.validation, token_budget=division.micro_batch_tokens, packed=division.packed
        )
        measured = _shape(sets.validation, group, division)
    assumed = None if worst.exact else "the run has more steps than were looked at"
    return Worst(tuple(shapes), measured, assumed)


def _largest(
    sets: Sets, recipe: Recipe, division: Division, *, num_steps: int, world_size: int
) -> Largest:
    """Found once for all plans of the same rows that lay them out alike: of a million rows it takes
    a second, and whatever else a plan changes makes no difference to it."""
    train = recipe.train
    layout = (train.batch_size, train.seed, division.micro_batch_tokens, division.packed)
    key = (*layout, num_steps, world_size)
    if key not in sets.largest:
        batches = StepBatches(
            sets.train,
            sets.repeats,
            batch_size=train.batch_size,
            seed=train.seed,
            token_budget=division.micro_batch_tokens,
            packed=division.packed,
            world_size=world_size,
        )
        sets.largest[key] = largest_of_steps(batches, range(num_steps), ranks=range(world_size))
    return sets.largest[key]


def assumed_worst(longest: int, division: Division, *, validates: bool) -> Worst:
    """One micro-batch of the whole token budget, every token trained."""
    shape = _full(longest, division)
    return Worst(
        (shape,),
        shape if validates else None,
        f"without rows, {shape.num_tokens:,} tokens in examples of {longest:,}, all of them "
        "trained (data.max_length and train.micro_batch_tokens say otherwise)",
    )


def assumed_length(recipe: Recipe, model: PreTrainedModel) -> int:
    """Tokens of the longest example, where no rows are at hand."""
    if recipe.data.max_length is not None:
        return recipe.data.max_length
    return min(ASSUMED_TOKENS, context_of(model.config) or ASSUMED_TOKENS)


def _shape(examples: ExampleSet, group: Sequence[int], division: Division) -> BatchShape:
    rows = list(group)
    lengths = tuple(examples.lengths[rows].tolist())
    return BatchShape(lengths, int(examples.trained_lengths[rows].sum()), division.packed)


def _full(longest: int, division: Division) -> BatchShape:
    count = max(1, division.micro_batch_tokens // longest)
    lengths = [longest] * count
    rest = division.micro_batch_tokens - count * longest
    if division.packed and rest > 1:
        lengths.append(rest)
    return BatchShape(tuple(lengths), sum(lengths) - len(lengths), division.packed)
