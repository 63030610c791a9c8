"""`sharegpt`: `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value":
...}]}`.

Speakers: human / user, gpt / assistant / chatgpt / bard / model, system, tool / function_response /
observation. A top-level `system` column is the system message. `function_call` values are JSON
`{"name": ..., "arguments": ...}`. Rows whose messages use `role` and `content` are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.fields import optional_text
from lorakit.data.json_lines import parse
from lorakit.data.turns import conversation_from, tools_from
from lorakit.errors import DataError, kind_of

NAME = "sharegpt"
COLUMNS = ("conversations", "system", "tools")
PRIORITY = 2

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "function_response": "tool",
    "observation": "tool",
}


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return "conversations" in columns


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    turns = values.get("conversations")
    if not isinstance(turns, list | tuple):
        raise DataError(
            f"{where}: column 'conversations' holds {kind_of(turns)}; it must be a list of "
            '{"from": ..., "value": ...} turns.'
        )
    messages = [_message(turn, f"{where}: conversations[{i}]") for i, turn in enumerate(turns)]
    system = optional_text(values, "system", where)
    if system.strip() and not (messages and messages[0].get("role") == "system"):
        messages.insert(0, {"role": "system", "content": system})
    return conversation_from(messages, f"{where}: conversations", tools_from(values, where))


def _message(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: a turn must be an object with `from` and `value`.")
    if "from" not in turn:
        return dict(turn)
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise DataError(
            f"{where}: unknown speaker {speaker!r}; possible are {', '.join(_ROLES)}. Rename it."
        )
    message = {key: turn[key] for key in ("train", "weight") if turn.get(key) is not None}
    message["role"] = _ROLES[speaker]
    if speaker == "function_call":
        call = (
            parse(turn["value"], where) if isinstance(turn.get("value"), str) else turn.get("value")
        )
        return message | {"tool_calls": call if isinstance(call, list) else [call]}
    return message | {"content": turn.get("value")}
