"""What `warm_start` may not say, and the recipe that its stage is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.rules.data import source_rules
from lorakit.recipe.rules.fault import Fault, no_effect
from lorakit.recipe.rules.grpo import GRPO
from lorakit.recipe.rules.train import length_rules

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def warm_start_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the warm start."""
    stage, place = recipe.warm_start, ("warm_start",)
    if stage is None:
        return
    if recipe.train.method != GRPO:
        yield no_effect(
            place, f"train.method is {recipe.train.method}", "set train.method to grpo"
        )
        return
    yield from length_rules(place, stage)
    for name in ("train", "validation"):
        yield from source_rules((*place, name), getattr(stage, name), weighted=name == "train")
