"""Recipes as rows: what was set, and in what several runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lorakit.recipe import Recipe

UNUSED = "-"  # in the row of a key whose section a recipe does not use


@dataclass(frozen=True)
class Setting:
    """One value of a recipe; `default` is None where a recipe must give one."""

    key: str
    value: str
    default: str | None
    changed: bool


def settings_of(recipe: Recipe) -> list[Setting]:
    """Every value of a recipe under its dotted key, in the order of the sections; those of a
    section that the recipe does not use are left out."""
    unused = {"grpo"} if recipe.train.method == "sft" else set()
    return [
        setting
        for section, values in recipe
        if values is not None and section not in unused
        for setting in _settings_of_section(section, values)
    ]


def _settings_of_section(section: str, values: BaseModel) -> list[Setting]:
    found = []
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        default = field.get_default(call_default_factory=True)
        required = default is PydanticUndefined
        found.append(
            Setting(
                key=f"{section}.{name}",
                value=_written(value),
                default=None if required else _written(default),
                changed=required or value != default,
            )
        )
    return found


def differing_settings(recipes: Sequence[Recipe]) -> list[tuple[str, list[str]]]:
    """(key, one value per recipe) where they are not all the same; the run folder is no setting."""
    columns = [{one.key: one.value for one in settings_of(recipe)} for recipe in recipes]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [(key, [column.get(key, UNUSED) for column in columns]) for key in keys]
    return [(key, row) for key, row in rows if len(set(row)) > 1 and key != "output.dir"]


def _written(value: Any) -> str:
    """As it stands in a recipe, on one line."""
    plain = _plain(value)
    if isinstance(plain, str):
        return plain
    if isinstance(plain, float):
        return f"{plain:g}"
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return [_plain(one) for one in value] if isinstance(value, list) else value
