"""What `check` may not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lorakit.recipe.finding_names import finding_names
from lorakit.recipe.rules.fault import Fault, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def check_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the check section."""
    yield from silence_rules(("check", "silence"), recipe.check.silence, finding_names())


def silence_rules(
    place: tuple[str | int, ...], silence: Sequence[str], possible: tuple[str, ...]
) -> Iterator[Fault]:
    """The rules of a list of ids that are kept quiet."""
    for index, name in enumerate(silence):
        if name not in possible:
            yield unknown((*place, index), name, possible)
