"""What `check` may not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.finding_names import finding_names
from lorakit.recipe.rules.fault import Fault, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def check_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the check section."""
    for index, name in enumerate(recipe.check.silence):
        if name not in finding_names():
            yield unknown(("check", "silence", index), name, finding_names())
