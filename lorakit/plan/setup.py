"""What a plan is for, and what was chosen where the recipe leaves it open."""

from __future__ import annotations

from collections import Counter
from typing import Any

from transformers import PreTrainedModel

from lorakit.engine.activations import layer_bytes
from lorakit.engine.fuse import fused_modules
from lorakit.engine.recompute import can_recompute
from lorakit.plan.rehearsal import BatchShape
from lorakit.plan.target import Target
from lorakit.train.choices import Division
from lorakit.train.modes import compute_dtype


def setup_of(
    model: PreTrainedModel, target: Target, division: Division, shape: BatchShape
) -> dict[str, Any]:
    """Device, dtype and the division of a step, for JSON.

    `recompute` has {level: layers} of the worst micro-batch, of `shape`.
    """
    levels = ["none"]
    if can_recompute(model):
        with fused_modules(model):
            layers = layer_bytes(model, compute_dtype(model).itemsize)
        levels = list(division.recompute_policy.levels(layers, shape.num_tokens))
    return {
        "device": target.device.type,
        "gpu": None if target.gpu is None else target.gpu.name,
        "dtype": str(target.dtype).removeprefix("torch."),
        "memory_bytes": target.memory_bytes,
        "is_budget": target.is_budget,
        "micro_batch_tokens": division.micro_batch_tokens,
        "packed": division.packed,
        "recompute": dict(Counter(levels)),
        "dense_copies": division.dense_copies,
    }
