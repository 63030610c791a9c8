"""The built-in sets as they ship."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lorakit.builtin import data_folder


def shipped_rows(names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """{set: its rows}."""
    return {
        name: [
            json.loads(line)
            for line in (data_folder() / f"{name}.jsonl").read_text("utf-8").splitlines()
        ]
        for name in names
    }
