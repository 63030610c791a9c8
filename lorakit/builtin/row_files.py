"""Generated rows of chats, and the files that they ship in."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lorakit.builtin import data_folder
from lorakit.files import write_atomically

Row = dict[str, Any]


def chat_row(turns: Iterable[tuple[str, str]], **columns: Any) -> Row:
    """A row of `messages`, one for each (role, content), and other columns."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, **columns}


def write_sets(folder: Path, sets: Mapping[str, Iterable[Row]]) -> None:
    """Write `<set>.jsonl` for every set, one row per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(folder / f"{name}.jsonl", "".join(lines).encode())


def write_command(
    description: str | None, make: Callable[[int], Mapping[str, Iterable[Row]]], seed: int
) -> None:
    """The command line of a generator: where to, and by which seed.

    Args:
        make: seed -> {set: its rows}.
        seed: that of the rows that ship.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=data_folder(), help="folder of the sets")
    parser.add_argument("--seed", type=int, default=seed)
    arguments = parser.parse_args()
    write_sets(arguments.output, make(arguments.seed))
