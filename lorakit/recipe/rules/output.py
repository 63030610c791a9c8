"""What `output` may not say."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter
from typing import TYPE_CHECKING

from lorakit.recipe.rules.fault import Fault

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def output_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the output section."""
    place = ("output", "dir")
    try:
        fill_name(recipe.output.dir, "name")
    except ValueError as error:
        yield Fault(place, f"{recipe.output.dir!r}: {error}; only {{name}} may stand in braces")
    if not recipe.output.dir.strip():
        yield Fault(place, "is empty; give the folder the run goes to")


def fill_name(text: str, name: str) -> str:
    """`text` with `{name}` filled in; `{{` and `}}` stand for braces themselves.

    Raises:
        ValueError: anything else in braces, or a single brace.
    """
    filled = ""
    for literal, field, spec, conversion in Formatter().parse(text):
        if field is not None and (field != "name" or spec or conversion):
            raise ValueError(f"{{{field}}} is not known")
        filled += literal + ("" if field is None else name)
    return filled
