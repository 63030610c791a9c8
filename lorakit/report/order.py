"""The order in which pages tell of sets and metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pydantic import AfterValidator

from lorakit.data.variants import source_and_variant
from lorakit.recipe.warm_start import TRAIN_SET

# Known names in the order they are told in.
STORY = (
    *("train", TRAIN_SET, "validation", "in_domain", "out_of_domain", "retention"),
    *("loss", "perplexity", "kl"),
)

Value = TypeVar("Value")


def in_order(names: Iterable[str]) -> list[str]:
    """Names of sets or metrics without repetition, those of STORY first, in its order, and variants
    of a set behind it."""
    there = dict.fromkeys(names)
    told = dict.fromkeys([*(name for name in STORY if name in there), *there])
    sources = {name: (source_and_variant(name) or (name,))[0] for name in told}
    places = {name: place for place, name in enumerate(told)}
    return sorted(
        told, key=lambda name: (places.get(sources[name], places[name]), sources[name] != name)
    )


def _told(values: dict[str, Value]) -> dict[str, Value]:
    return {name: values[name] for name in in_order(values)}


Told = AfterValidator(_told)
