"""What a plan is for, and what was chosen where the recipe leaves it open."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lorakit.plan.blueprint import Blueprint
from lorakit.plan.rehearsal import BatchShape
from lorakit.plan.target import Target
from lorakit.recipe.sections.train import TrainSection
from lorakit.train.choices import Division


def setup_of(
    train: TrainSection,
    blueprint: Blueprint,
    target: Target,
    division: Division,
    shape: BatchShape,
    at_a_time: int | None,
) -> dict[str, Any]:
    """Device, dtype and the division of a step and of the evaluation's answers, for JSON.

    A step sees `batch_size` of what `batch_of` says, and so do its micro-batches.
    `recompute` has {level: layers} of the worst micro-batch, of `shape`; `at_a_time` is None where
    nothing is answered.
    """
    levels = ["none"]
    if blueprint.can_recompute:
        levels = list(division.recompute_policy.levels(blueprint.layers.bytes, shape.num_tokens))
    return {
        "device": target.device.type,
        "gpu": None if target.gpu is None else target.gpu.name,
        "dtype": str(target.dtype).removeprefix("torch."),
        "memory_bytes": target.memory_bytes,
        "is_budget": target.is_budget,
        "batch_size": train.batch_size,
        "batch_of": train.batch_of,
        "micro_batch_tokens": division.micro_batch_tokens,
        "packed": division.packed,
        "recompute": dict(Counter(levels)),
        "dense_copies": division.dense_copies,
        "answers_at_a_time": at_a_time,
    }
