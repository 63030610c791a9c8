"""Values of a row's columns, checked: every fault names the row and the column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.errors import DataError


def text_of(values: Mapping[str, Any], column: str, where: str) -> str:
    """The column's text, which must be there and not blank.

    Raises:
        DataError: absent, not text, blank, or not encodable.
    """
    text = optional_text(values, column, where)
    if not text.strip():
        state = "is empty" if column in values else f"is missing; the row has {sorted(values)}"
        raise DataError(
            f"{where}: column {column!r} {state}. Fill it, remove the row, or map the right column "
            f"with columns: {{{column}: ...}}."
        )
    return text


def optional_text(values: Mapping[str, Any], column: str, where: str) -> str:
    """The column's text, or "" when it is absent or null."""
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} holds a {type(value).__name__}, not text. Write it as a "
            f"string."
        )
    if not value.isascii():
        check_encodable(value, f"{where}: column {column!r}")
    return value


def check_encodable(text: str, where: str) -> None:
    """Refuse lone surrogates, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a surrogate pair at character {error.start + 1}. Remove it."
        ) from None
