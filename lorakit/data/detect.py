"""Which row format a set has: the files of `formats/`, found by listing the folder.

A format file defines `NAME`, `COLUMNS` (the names it reads, for column mapping), `PRIORITY`,
`matches(columns, first_row)` and `convert(values, where)`. The match of highest priority wins: 3 is
a special case of another format, 2 a format of its own, 1 whatever is left (plain text). Two
matches of equal priority are an error that names both, never a guess.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

from lorakit.data import formats
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.fields import MappedRow
from lorakit.data.sources import Row
from lorakit.errors import DataError


@cache
def format_modules() -> dict[str, ModuleType]:
    """{NAME: module} of every file in `formats/`."""
    names = sorted(info.name for info in pkgutil.iter_modules(formats.__path__))
    modules = [importlib.import_module(f"{formats.__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules}


@dataclass(frozen=True)
class Converter:
    """Rows of one set to conversations: the format, its column mapping and the system message."""

    name: str
    columns: Mapping[str, str]
    system: str | None
    _convert: Callable[[Mapping[str, Any], str], Conversation | PlainText]
    _rivals: tuple[ModuleType, ...] = ()

    def __call__(self, row: Row) -> Conversation | PlainText:
        """What the row means; a DataError names the row if it means nothing."""
        values = mapped(row, self.columns)
        names = set(values)
        for other in self._rivals:
            if other.matches(names, values):
                raise DataError(
                    f"{row.location}: this row fits the format {other.NAME!r}, but the set opens "
                    f"with rows of {self.name!r}. Put them in sets of their own, or say which with "
                    "`format`."
                )
        meaning = self._convert(values, row.location)
        if self.system is None:
            return meaning
        if isinstance(meaning, PlainText):
            raise DataError(
                f"{row.location}: plain text has no system message. Remove `system`, or use a row "
                "format with turns."
            )
        return _with_system(meaning, self.system)


def converter_for(
    first: Row,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
) -> Converter:
    """The converter of a set, from its first row.

    Args:
        first: the set's first row.
        format: a format's name, or `auto`.
        columns: {name the format expects: column in the file}.
        system: system message for rows without one.

    Raises:
        DataError: unknown format, no match, two equal matches, or a mapping that cannot take
            effect.
    """
    columns = columns or {}
    values = mapped(first, columns)
    module = _named(format) if format != "auto" else _detected(values, first.location)
    unread = sorted(set(columns) - set(module.COLUMNS))
    if unread:
        raise DataError(
            f"columns maps {unread}, which the format {module.NAME!r} does not read; it reads "
            f"{', '.join(module.COLUMNS)}. Fix columns (name the format expects: column in the "
            f"file)."
        )
    rivals = () if format != "auto" else _rivals(module)
    return Converter(module.NAME, columns, system, module.convert, rivals)


def _rivals(chosen: ModuleType) -> tuple[ModuleType, ...]:
    """The formats that would be chosen instead, or as well, where they match."""
    modules = format_modules().values()
    return tuple(m for m in modules if m is not chosen and m.PRIORITY >= chosen.PRIORITY)


def mapped(row: Row, columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row's values under the names that formats expect."""
    if not columns:
        return MappedRow(row.values, columns)
    missing = sorted(set(columns.values()) - set(row.values))
    if missing:
        absent = ", ".join(f"no column {name!r}{_nearest(name, row.values)}" for name in missing)
        raise DataError(
            f"{row.location}: {absent}; the row has {sorted(row.values)}. Fix columns (name the "
            "format expects: column in the file). data.columns is of every set without columns of "
            "its own, which {path: FILE, columns: {...}} gives to one, {} for none."
        )
    used = set(columns.values())
    kept = {name: value for name, value in row.values.items() if name not in used}
    named = {name: row.values[column] for name, column in columns.items()}
    return MappedRow(kept | named, columns)


def _nearest(name: str, existing: Iterable[str]) -> str:
    """A question that names the nearest column, upper and lower case aside; "" if none is near."""
    by_lower = {column.lower(): column for column in existing}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def _named(name: str) -> ModuleType:
    modules = format_modules()
    if name not in modules:
        raise DataError(f"unknown format {name!r}; possible are auto, {', '.join(modules)}.")
    return modules[name]


def _detected(values: Mapping[str, Any], where: str) -> ModuleType:
    matching = [
        module for module in format_modules().values() if module.matches(set(values), values)
    ]
    if not matching:
        known = "; ".join(f"{m.NAME}: {', '.join(m.COLUMNS)}" for m in format_modules().values())
        raise DataError(
            f"{where}: no row format reads the columns {sorted(values)}. Known are {known}. Map "
            f"yours with "
            "columns: {name the format expects: column in the file}."
        )
    best = max(module.PRIORITY for module in matching)
    chosen = [module for module in matching if best <= module.PRIORITY]
    if len(chosen) > 1:
        names = " and ".join(module.NAME for module in chosen)
        raise DataError(
            f"{where}: the columns {sorted(values)} fit the formats {names}. Say which with "
            f"`format`."
        )
    return chosen[0]


def _with_system(conversation: Conversation, system: str) -> Conversation:
    if conversation.messages[0]["role"] in ("system", "developer"):
        return conversation
    return replace(
        conversation,
        messages=({"role": "system", "content": system}, *conversation.messages),
        weights=(0.0, *conversation.weights),
    )
