"""Recipes in and out: from a file, from nested dicts, to YAML, and their schema for editors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorakit.errors import RecipeError, kind_of
from lorakit.recipe.faults import faults_of, in_words
from lorakit.recipe.rules.output import fill_name
from lorakit.recipe.rules.recipe import broken_rules
from lorakit.recipe.sections.recipe import Recipe
from lorakit.recipe.sections.section import Section
from lorakit.recipe.text import KeyPath, apply_override, dump_text, parse_text, read_text

# Options of a stage of which it has one at most.
EXCLUSIVE = ("num_train_epochs", "max_steps")
STAGES = ("train", "warm_start")


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
            f"{path}:1: a recipe is keys with values, this is {kind_of(values)}. "
            f"Its sections: {', '.join(Recipe.model_fields)}."
        )
    for override in overrides:
        apply_override(values, override, places)
    _replace_excluded(values, places, overrides)
    return _validated(values, places, source=str(path), name=path.stem)


def _replace_excluded(
    values: dict[Any, Any], places: dict[KeyPath, str], overrides: Sequence[str]
) -> None:
    """Overriding one of two options that exclude each other takes the file's other one out."""
    named = {override.partition("=")[0].strip() for override in overrides}
    for section, (key, other) in itertools.product(STAGES, (EXCLUSIVE, EXCLUSIVE[::-1])):
        stage = values.get(section)
        if not isinstance(stage, dict):
            continue
        chosen = f"{section}.{key}" in named and stage.get(key) is not None
        if chosen and f"{section}.{other}" not in named:
            stage.pop(other, None)
            places.pop((section, other), None)


def parse_recipe(values: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """A recipe from nested dicts; errors as in `load_recipe`. `name` stands for `{name}`."""
    return _validated(values, {}, source="recipe", name=name)


def check_values(values: Mapping[str, Any], places: dict[KeyPath, str], source: str) -> None:
    """Raise the RecipeError that `load_recipe` would for these values."""
    _validated(values, places, source=source, name="recipe")


def edited(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with values changed.

    Args:
        changes: {"section.key": value}.

    Raises:
        RecipeError: values that do not go together.
    """
    values = recipe.model_dump(exclude_unset=True)
    values["output"] = values.get("output", {}) | {"dir": _unfilled(recipe.output.dir)}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        values[section] = values.get(section, {}) | {key: value}
    return _validated(values, {}, source="recipe", name="recipe")


def _validated(
    values: Mapping[str, Any], places: dict[KeyPath, str], *, source: str, name: str
) -> Recipe:
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(in_words(faults_of(error, values, Recipe), places, source)) from None
    recipe.output.dir = fill_name(recipe.output.dir, name)
    return recipe


def _unfilled(folder: str) -> str:
    """What `fill_name` makes `folder` of."""
    return folder.replace("{", "{{").replace("}", "}}")


def dump_recipe(recipe: Recipe) -> str:
    """YAML of every value, defaults included; `load_recipe` reads it to an equal recipe.

    Options that take no effect in this recipe are left out, because writing them is an error.
    """
    values = recipe.model_dump(mode="json")
    for fault in broken_rules(_written_in_full(recipe)):
        if fault.effectless:
            *parents, key = fault.path
            holder: Any = values
            for parent in parents:
                holder = holder[parent]
            del holder[key]
    values["output"]["dir"] = _unfilled(recipe.output.dir)
    return dump_text(values)


def _written_in_full(value: Any) -> Any:
    """A recipe, or a part of it, as if every one of its keys had been written."""
    if isinstance(value, Section):
        parts = {name: _written_in_full(part) for name, part in value}
        return type(value).model_construct(**parts)
    return [_written_in_full(part) for part in value] if isinstance(value, list) else value


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()
