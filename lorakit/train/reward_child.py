"""What the child process of `reward_functions.py` does; `lorakit/child/serve.py` runs it, nobody
imports it.

Requests: {"describe": true}, answered by what the function takes, and {"arguments": {name: list},
"options": {name: value}, "count": completions}, answered by {"count": values} if there are not as
many of them, else by {"values": [number, null, or {"type": name}]}.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def start(where: str, function: str) -> Callable[[Any], dict[str, Any]]:
    """Calls `function` of a file (`*.py`) or a module."""
    called = _load(where, function)
    loop = asyncio.Runner()  # one for all calls: clients that a file keeps are bound to it
    return lambda request: _serve(called, request, loop)


def _load(where: str, function: str) -> Callable[..., Any]:
    if where.endswith(".py"):
        path = Path(where)
        sys.path.insert(0, str(path.parent))  # as if it were run: its neighbours can be imported
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    found = vars(module).get(function)
    if not callable(found):
        raise SystemExit(f"there is no function {function!r} in {where}")
    return found


def _serve(
    called: Callable[..., Any], request: dict[str, Any], loop: asyncio.Runner
) -> dict[str, Any]:
    if "describe" in request:
        return _described(called)
    values = called(**request["arguments"], **request["options"])
    if inspect.iscoroutine(values):  # `async def`
        values = loop.run(values)
    if hasattr(values, "tolist"):  # an array or a tensor
        values = values.tolist()
    if not isinstance(values, list | tuple):
        return {"type": type(values).__name__}
    if len(values) != request["count"]:
        return {"count": len(values)}
    return {"values": [_number(value) for value in values]}


def _described(called: Callable[..., Any]) -> dict[str, Any]:
    """{"takes": names, "needs": those without a default, "takes_all": **kwargs}"""
    parameters = inspect.signature(called).parameters.values()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {
        "takes": [p.name for p in by_name],
        "needs": [p.name for p in by_name if p.default is p.empty],
        "takes_all": any(p.kind == p.VAR_KEYWORD for p in parameters),
        "by_place": [p.name for p in parameters if p.kind == p.POSITIONAL_ONLY],
    }


def _number(value: Any) -> float | dict[str, str] | None:
    if hasattr(value, "item"):  # a number of NumPy's or PyTorch's
        value = value.item()
    if value is None or isinstance(value, bool | int | float):
        return None if value is None else float(value)
    return {"type": type(value).__name__}
