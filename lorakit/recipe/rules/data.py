"""What `data` may not say, and any set of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lorakit.recipe.rules.fault import Fault, is_given, names_in, no_effect, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def data_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the data section."""
    data = recipe.data
    yield from format_rules(("data", "format"), data.format)
    if data.group is not None and not isinstance(data.validation, float):
        yield no_effect(
            ("data", "group"), "data.validation is no fraction of train", "set validation: 0.1"
        )
    topics = data.hold_out_topics
    if topics is not None and topics.values is not None and is_given(topics, "fraction"):
        yield no_effect(
            ("data", "hold_out_topics", "fraction"), "values says which topics", "remove values"
        )
    if topics is not None and recipe.evaluate.out_of_domain is not None:
        yield Fault(
            ("evaluate", "out_of_domain"),
            "names a set, but data.hold_out_topics makes one of that name; remove one of the two",
        )
    for name in ("train", "validation"):
        yield from source_rules(("data", name), getattr(data, name), weighted=name == "train")


def format_rules(path: tuple[str | int, ...], name: str) -> Iterator[Fault]:
    """The rules of the name of a row format."""
    formats = ("auto", *names_in("data/formats"))
    if name not in formats:
        yield unknown(path, name, formats)


def source_rules(place: tuple[str | int, ...], value: Any, *, weighted: bool) -> Iterator[Fault]:
    """The rules of a set: a path, a set with options, or a list of both."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from source_rules((*place, index), one, weighted=weighted)
    elif isinstance(value, str) and not value.strip():
        yield Fault(place, "is empty; give a file, a folder or a hub id")
    elif value is not None and not isinstance(value, str | float):  # a DataSource
        yield from source_rules((*place, "path"), value.path, weighted=weighted)
        if not weighted and is_given(value, "weight"):
            yield no_effect(
                (*place, "weight"), "only rows that are trained on are repeated", "name other rows"
            )
