"""What `warm_start` may not say."""

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
        yield no_effect(place, f"train.method is {recipe.train.method}", "set train.method to grpo")
        return
    yield from length_rules(place, stage)
    yield from _splits(recipe, has_own_rows=stage.train is not None)
    for name in ("train", "validation"):
        yield from source_rules((*place, name), getattr(stage, name), weighted=name == "train")


def _splits(recipe: Recipe, *, has_own_rows: bool) -> Iterator[Fault]:
    """What is held out of data.train must be held out of the warm start too."""
    data, stage = recipe.data, recipe.warm_start
    assert stage is not None
    is_share = isinstance(data.validation, float)
    if has_own_rows and is_share:
        yield Fault(
            ("data", "validation"),
            f"is a share of data.train, {data.validation:g}, which warm_start.train has other rows "
            "than; possible with it: rows of their own, here or as evaluate.in_domain",
        )
    if has_own_rows and data.hold_out_topics is not None:
        yield Fault(
            ("data", "hold_out_topics"),
            "are topics of data.train, which warm_start.train has other rows than; possible with "
            "it: rows of unseen topics as evaluate.out_of_domain",
        )
    if not has_own_rows and is_share and stage.validation is not None:
        yield Fault(
            ("warm_start", "validation"),
            "names other rows than data.validation, the share of data.train that is held out; "
            "possible: one of the two. Remove this one: the share serves as both",
        )
