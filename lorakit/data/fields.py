"""Values of a row's columns, checked: every fault names the row and the column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.errors import DataError, kind_of


class MappedRow(dict[str, Any]):
    """A row under the names that formats expect; messages call columns as the file does.

    Args:
        values: {name the format expects: value}.
        columns: {name the format expects: column in the file}.
    """

    def __init__(self, values: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        super().__init__(values)
        self.columns = columns


def _in_file(values: Mapping[str, Any], column: str) -> str:
    """The column's name in the file."""
    return values.columns.get(column, column) if isinstance(values, MappedRow) else column


def text_of(values: Mapping[str, Any], column: str, where: str) -> str:
    """The column's text, which must be there and not blank.

    Raises:
        DataError: absent, not text, blank, or not encodable.
    """
    text = optional_text(values, column, where)
    if not text.strip():
        state = "is empty" if column in values else f"is missing; the row has {sorted(values)}"
        raise DataError(
            f"{where}: column {_in_file(values, column)!r} {state}. Fill it, remove the row, or "
            f"name another column with columns: {{{column}: ...}}."
        )
    return text


def optional_text(values: Mapping[str, Any], column: str, where: str) -> str:
    """The column's text, or "" when it is absent or null."""
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {_in_file(values, column)!r} holds {kind_of(value)}, not "
            "text. Write it as a string."
        )
    if not value.isascii():
        check_encodable(value, f"{where}: column {_in_file(values, column)!r}")
    return value


def check_encodable(text: str, where: str) -> None:
    """Refuse lone surrogates, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a surrogate pair at character {error.start + 1}. Remove it."
        ) from None
