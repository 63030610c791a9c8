"""Lists of messages, checked and brought into the one form that chat templates read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.data.conversation import ROLES, Conversation
from lorakit.data.fields import check_encodable
from lorakit.data.json_lines import parse
from lorakit.errors import DataError, kind_of

_REASONING = ("reasoning_content", "thinking", "reasoning")
_KEPT = ("name", "tool_call_id")

MAX_WEIGHT = 1000


def conversation_from(
    messages: Any, where: str, tools: Sequence[dict[str, Any]] = ()
) -> Conversation:
    """A Conversation from a list of message dicts.

    Raises:
        DataError: no list, an unknown role, content that is no text, an empty answer; the message's
            number is named.
    """
    if isinstance(messages, str):
        messages = parse(messages, where)
    if not isinstance(messages, Sequence) or not messages:
        raise DataError(f"{where}: {_shown(messages)} is no list of messages. Give at least one.")
    checked = [_message(message, f"{where}[{i}]") for i, message in enumerate(messages)]
    return Conversation(
        tuple(message for message, _ in checked),
        tuple(weight for _, weight in checked),
        tuple(tools),
    )


def tools_from(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    """The row's tool schemas, from a list or a JSON string; () without any."""
    tools = values.get("tools")
    if isinstance(tools, str):
        tools = parse(tools, f"{where}: tools") if tools.strip() else None
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"{where}: column 'tools' must be a list of JSON schemas.")
    return tuple(_tool(tool, f"{where}: tools[{i}]") for i, tool in enumerate(tools))


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    clean: dict[str, Any] = _without_nulls(tool)
    function = clean.get("function", clean)
    if not isinstance(function, Mapping) or not isinstance(function.get("name", ""), str):
        raise DataError(
            f'{where}: a tool needs a name, as {{"type": "function", "function": {{"name": ...}}}}.'
        )
    _check_json(clean, where)
    return clean


def _message(message: Any, where: str) -> tuple[dict[str, Any], float]:
    if not isinstance(message, Mapping):
        raise DataError(f"{where}: a message must be an object with role and content.")
    role = message.get("role")
    if role not in ROLES:
        raise DataError(
            f"{where}: unknown role {role!r}; possible are {', '.join(ROLES)}. Rename it, or use "
            "the sharegpt format for `from`/`value` rows."
        )
    clean: dict[str, Any] = {"role": role}
    content = _content(message.get("content"), where)
    if content is not None:
        clean["content"] = content
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if reasoning is not None:
        clean["reasoning_content"] = _text(reasoning, f"{where}.reasoning_content")
    if message.get("tool_calls"):
        clean["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    for key in _KEPT:
        if message.get(key) is not None:
            clean[key] = _text(message[key], f"{where}.{key}")
    _check_filled(clean, where)
    return clean, _weight(message, role, where)


def _content(content: Any, where: str) -> str | list[dict[str, str]] | None:
    if content is None or isinstance(content, str):
        return content if content is None else _text(content, f"{where}.content")
    if not isinstance(content, Sequence):
        raise DataError(
            f"{where}: content is {kind_of(content)}; it must be text, or a list of "
            '{"type": "text", "text": ...} parts.'
        )
    parts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
            raise DataError(
                f"{where}: content part {kind!r} is not text; only text parts are trained."
            )
        parts.append({"type": "text", "text": _text(part.get("text"), f"{where}.content")})
    return parts


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise DataError(f"{where}: must be a list of tool calls.")
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: a tool call needs function.name and function.arguments.")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parse(arguments, f"{where}.arguments") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}: arguments must be a JSON object, not {_shown(arguments)}.")
    _check_json(arguments, f"{where}.arguments")
    clean = {
        "type": "function",
        "function": {"name": function["name"], "arguments": dict(arguments)},
    }
    if isinstance(call, Mapping) and call.get("id") is not None:
        clean["id"] = _text(call["id"], f"{where}.id")
    return clean


def _check_filled(message: dict[str, Any], where: str) -> None:
    content = message.get("content", "")
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    if message["role"] == "assistant" and not text.strip() and not message.get("tool_calls"):
        raise DataError(
            f"{where}: the assistant's content is empty; there is nothing to learn from it. Fill "
            "it or remove the row."
        )
    if message["role"] in ("user", "tool", "system", "developer") and "content" not in message:
        raise DataError(f"{where}: a {message['role']} message needs content.")


def _weight(message: Mapping[str, Any], role: str, where: str) -> float:
    train, weight = message.get("train"), message.get("weight")
    if train is not None and weight is not None:
        raise DataError(f"{where}: both train and weight are given; keep one of them.")
    if train is not None and not isinstance(train, bool):
        raise DataError(f"{where}: train must be true or false, not {train!r}.")
    if weight is not None and (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not 0 <= weight <= MAX_WEIGHT
    ):
        raise DataError(
            f"{where}: weight must be a number from 0 to {MAX_WEIGHT}, not {_shown(weight)}."
        )
    share = float(train) if train is not None else None if weight is None else float(weight)
    if role != "assistant" and share:
        raise DataError(
            f"{where}: a {role} message cannot be trained alone; train and weight belong on "
            "assistant messages. Remove it, or set `trained: all`."
        )
    return 1.0 if share is None else share


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: must be text, not {_shown(value)}.")
    if not value.isascii():
        check_encodable(value, where)
    return value


def _check_json(value: Any, where: str) -> None:
    """Refuse what JSON cannot hold: templates write schemas and arguments as JSON."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_json(item, where)
            if not isinstance(key, str):
                raise DataError(f"{where}: the key {_shown(key)} is no JSON; write it as text.")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(item, where)
    elif not isinstance(value, str | int | float | None) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise DataError(f"{where}: {_shown(value)} is no JSON value; write it as text.")


def _without_nulls(value: Any) -> Any:
    """Arrow fills the fields that a struct lacks with nulls; schemas are read without them."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
