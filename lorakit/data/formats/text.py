"""`text`: `{"text": ...}`, trained as it stands between the tokenizer's own start and end
tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.data.conversation import PlainText
from lorakit.data.fields import text_of

NAME = "text"
COLUMNS = ("text",)
PRIORITY = 1


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return "text" in columns


def convert(values: Mapping[str, Any], where: str) -> PlainText:
    return PlainText(text_of(values, "text", where))
