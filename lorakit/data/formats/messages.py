"""`messages`: OpenAI's and transformers' chat rows.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}],
     "tools": [{"type": "function", "function": {...}}]}

An assistant message may carry `reasoning_content` (also read: `thinking`, `reasoning`),
`tool_calls`, and `train` (true or false) or `weight` (a number from 0) for its share of the loss.
`arguments` of a tool call may be a JSON string or an object. `tools` may be a JSON string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.turns import conversation_from, tools_from

NAME = "messages"
COLUMNS = ("messages", "tools")
PRIORITY = 2


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return "messages" in columns


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    return conversation_from(
        values.get("messages"), f"{where}: messages", tools_from(values, where)
    )
