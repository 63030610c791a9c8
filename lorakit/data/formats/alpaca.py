"""`alpaca`: `{"instruction": ..., "input": ..., "output": ...}`, input optional.

Also the nested form of the self-instruct seed tasks: `{"instruction": ..., "instances": [{"input":
..., "output": ...}]}` with one instance per row. Instruction and input are joined by a blank line;
the prose around them in Stanford's own prompt is left to the chat template. `system` (text)
and `history` ([[said, answered], ...], trained as well) stand before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.fields import optional_text, text_of
from lorakit.errors import DataError

NAME = "alpaca"
COLUMNS = ("instruction", "input", "output", "instances", "system", "history")
PRIORITY = 2


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return "instruction" in columns and ("output" in columns or "instances" in columns)


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    task = values if "output" in values else _only_instance(values.get("instances"), where)
    instruction = text_of(values, "instruction", where)
    extra = optional_text(task, "input", where)
    prompt = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    system = optional_text(values, "system", where)
    return Conversation.of(
        *([("system", system)] if system.strip() else []),
        *_history(values.get("history"), where),
        ("user", prompt),
        ("assistant", text_of(task, "output", where)),
    )


def _history(pairs: Any, where: str) -> list[tuple[str, str]]:
    """Turns before the instruction, from a list of [said, answered] pairs."""
    turns: list[tuple[str, str]] = []
    if pairs is not None and not isinstance(pairs, list | tuple):
        raise DataError(f"{where}: column 'history' must be a list of [said, answered] pairs.")
    for i, pair in enumerate(pairs or ()):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError(f"{where}: history[{i}] must be a pair [said, answered].")
        said = dict(zip(("said", "answered"), pair, strict=True))
        turns.append(("user", text_of(said, "said", f"{where}: history[{i}]")))
        turns.append(("assistant", text_of(said, "answered", f"{where}: history[{i}]")))
    return turns


def _only_instance(instances: Any, where: str) -> Mapping[str, Any]:
    if (
        not isinstance(instances, list)
        or len(instances) != 1
        or not isinstance(instances[0], Mapping)
    ):
        count = len(instances) if isinstance(instances, list) else "no list of"
        raise DataError(
            f"{where}: column 'instances' holds {count} instances; a row needs exactly one "
            "{input, output} object. Write one row per instance."
        )
    return instances[0]
