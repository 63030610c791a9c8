"""What of a recipe can be changed so that it takes less memory, in the order of what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.plan.rows import Sets, up_to_length
from lorakit.plan.worst import ASSUMED_TOKENS
from lorakit.recipe import Recipe

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MIN_RANK = 8
OFFLOAD = "base.offload"
# {type of the device that computes: where its layers can wait, and what that costs}
WAITING = {
    "cuda": ("cpu", "layers come from host memory in every pass: several times slower"),
    "cpu": ("disk", "layers come from disk in every pass: many times slower"),
}
# Shares of rows whose loss is offered: what few long rows take, all of them are laid out for.
DROPPED = (0.01, 0.05, 0.15)
MIN_TOKENS = 512
# The evaluation runs without gradients and optimizer.
OF_TRAINING_ALONE = ("train.optim", "train.gradient_checkpointing")


@dataclass(frozen=True)
class Change:
    """One key of the recipe.

    Attributes:
        costs: in words, what it takes from speed or quality.
        sets: the rows that are left.
    """

    key: str
    value: Any
    costs: str
    sets: Sets | None = None

    @property
    def changes_base(self) -> bool:
        """Whether it changes frozen weights, or where they live."""
        return self.key.startswith("base.")

    def can_lower(self, phase: str) -> bool:
        """Whether a phase of `Peaks` may take less with it; no plan is needed to know of others
        that they do not."""
        if self.changes_base:
            return True
        if phase == "loading":
            return False
        if self.key.startswith("evaluate."):
            return phase == "evaluation"
        if self.key.startswith("grpo."):
            return phase == "rollout"
        return phase != "evaluation" or self.key not in OF_TRAINING_ALONE


def possible_changes(
    recipe: Recipe,
    sets: Sets | None,
    device_type: str,
    at_a_time: int | None,
    *,
    completions_at_a_time: int | None = None,
) -> list[Change]:
    """Changes that take less memory, the cheapest first; later ones of a key go further.

    Args:
        device_type: of what computes: "cuda" or "cpu".
        at_a_time: answers of the evaluation that are written together now; None: there are none.
        completions_at_a_time: the same of a policy's rollouts.
    """
    base, adapter, train = recipe.base, recipe.adapter, recipe.train
    costs = "no quality; the evaluation's answers take longer"
    found = _fewer_at_a_time("evaluate.max_batch", at_a_time, costs)
    if train.optim == "adamw_torch":
        found.append(Change("train.optim", "adamw_8bit", "moments in 8 bits: hardly any"))
    if not train.optim.startswith("paged"):
        found.append(
            Change("train.optim", "paged_adamw_8bit", "moments wait in host memory: a little time")
        )
    packs = base.quantization in ("nf4", "fp4")
    if packs and not base.double_quantization:
        found.append(Change("base.double_quantization", True, "hardly any"))
    # Whatever else lowers what rollouts take costs quality.
    costs = "no quality; the completions of every step take longer"
    found += _fewer_at_a_time("grpo.max_batch", completions_at_a_time, costs)
    if train.gradient_checkpointing is False:
        costs = "the MLPs' forward pass is made twice: some 15 % more time"
        found.append(Change("train.gradient_checkpointing", "selective", costs))
    found += _smaller_micro_batches(recipe, sets)
    if train.gradient_checkpointing is not True:
        costs = "every layer's forward pass is made twice: a third more time"
        found.append(Change("train.gradient_checkpointing", True, costs))
    if base.quantization == "none":
        costs = "4-bit weights: slightly worse answers, weights unpacked in every pass"
        found.append(Change("base.quantization", "nf4", costs))
    elif base.quantization == "int8":
        found.append(Change("base.quantization", "nf4", "4 bits for 8: slightly worse answers"))
    found += _shorter_rows(recipe, sets)
    rank = adapter.r // 2
    while adapter.path is None and rank >= MIN_RANK:
        found.append(Change("adapter.r", rank, f"rank {rank} learns less than {adapter.r}"))
        rank //= 2
    if adapter.path is None and adapter.target_modules == "all-linear":
        costs = "attention alone learns less than all layers"
        found.append(Change("adapter.target_modules", ATTENTION, costs))
    if base.offload in ("auto", "none"):
        where, costs = WAITING[device_type]
        found.append(Change(OFFLOAD, where, costs))
    return found


def _fewer_at_a_time(key: str, now: int | None, costs: str) -> list[Change]:
    """A quarter each time, down to one."""
    found = []
    at_once = now or 1
    while at_once > 1:
        at_once = max(1, at_once // 4)
        found.append(Change(key, at_once, costs))
    return found


def _smaller_micro_batches(recipe: Recipe, sets: Sets | None) -> list[Change]:
    longest = _assumed(recipe) if sets is None else int(sets.train.lengths.max())
    tokens = recipe.train.micro_batch_tokens
    costs = "no quality; shorter passes keep the device less busy"
    if tokens is None:
        tokens = 2 * max(MIN_TOKENS, longest)
    found = []
    while tokens // 2 >= max(MIN_TOKENS, longest):
        tokens //= 2
        found.append(Change("train.micro_batch_tokens", tokens, costs))
    return found


def _assumed(recipe: Recipe) -> int:
    return recipe.data.max_length or ASSUMED_TOKENS


def _shorter_rows(recipe: Recipe, sets: Sets | None) -> list[Change]:
    found: list[Change] = []
    if sets is None:
        limit = _assumed(recipe) // 2
        costs = "longer rows are dropped; how many is not known, for they are not here"
        while limit >= MIN_TOKENS:
            found.append(Change("data.max_length", limit, costs))
            limit //= 2
        return found
    lengths = sets.train.lengths
    for share in DROPPED:
        limit = int(np.quantile(lengths, 1 - share, method="lower"))
        dropped = float((lengths > limit).mean())
        if dropped > 0 and limit >= 2 and all(limit != change.value for change in found):
            costs = f"{dropped:.1%} of the rows are longer and would be dropped"
            left = up_to_length(sets, limit)
            found.append(Change("data.max_length", limit, costs, left))
    return found
