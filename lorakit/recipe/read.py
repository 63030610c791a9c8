"""Recipes in and out: from a file, from nested dicts, to YAML, and their schema for editors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorakit.errors import RecipeError
from lorakit.recipe.faults import faults_of
from lorakit.recipe.rules import Fault, broken_rules
from lorakit.recipe.sections import Recipe
from lorakit.recipe.text import KeyPath, apply_override, dump_text, parse_text, read_text


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file of at most 1 MiB. `{name}` in `output.dir` becomes its name without suffix.
        overrides: `section.key=value` strings; the value is YAML, so `1e-4` and `[a, b]` work.

    Raises:
        RecipeError: unreadable file, YAML error, unknown key (the nearest known one is named), or
            bad value. All faults are listed at once.

    Relative paths in it stay relative to the working directory.
    """
    path = Path(path)
    values, places = parse_text(read_text(path), str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path}:1: a recipe is keys with values, this is {type(values).__name__}. "
            f"Its sections: {', '.join(Recipe.model_fields)}."
        )
    for override in overrides:
        apply_override(values, override, places)
    return _validated(values, places, source=str(path), name=path.stem)


def parse_recipe(values: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """A recipe from nested dicts; errors as in `load_recipe`. `name` stands for `{name}`."""
    return _validated(values, {}, source="recipe", name=name)


def _validated(
    values: Mapping[str, Any], places: dict[KeyPath, str], *, source: str, name: str
) -> Recipe:
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_message(faults_of(error, values, Recipe), places, source)) from None
    recipe.output.dir = recipe.output.dir.replace("{name}", name)
    return recipe


def _message(faults: list[Fault], places: dict[KeyPath, str], source: str) -> str:
    lines = [
        f"{_place(fault.path, places, source)}: {_name(fault.path)}{fault.message}"
        for fault in faults
    ]
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join([f"{source} has {len(lines)} faults:", *lines])


def _name(path: KeyPath) -> str:
    return ".".join(map(str, path)) + " " if path else ""


def _place(path: KeyPath, places: dict[KeyPath, str], source: str) -> str:
    """Where `path` was written, or where the nearest thing around it was."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return source


def dump_recipe(recipe: Recipe) -> str:
    """YAML of every value, defaults included; `load_recipe` reads it to an equal recipe.

    Options that take no effect in this recipe are left out, because writing them is an error.
    """
    values = recipe.model_dump(mode="json")
    for fault in broken_rules(Recipe.model_construct(**_written_in_full(recipe))):
        section, key = fault.path
        values[str(section)].pop(key)
    return dump_text(values)


def _written_in_full(recipe: Recipe) -> dict[str, Any]:
    """The sections of `recipe` as if every one of their keys had been written."""
    return {name: type(section).model_construct(**dict(section)) for name, section in recipe}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()
