"""Files of JSON, checked against the shape they should have, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lorakit.errors import RunError

Value = TypeVar("Value")


def read_json(path: Path, shape: Any, absent: Value) -> Any | Value:
    """A file of one JSON value in `shape`; `absent` where it is not there.

    Raises:
        RunError: it is damaged.
    """
    return read_checked(path, lambda file: json.loads(file.read_text("utf-8")), shape, absent)


def read_json_lines(path: Path, shape: Any, absent: Value) -> Any | Value:
    """The same for a file of JSON lines."""
    return read_checked(path, _json_lines, shape, absent)


def read_checked(
    path: Path, parse: Callable[[Path], Any], shape: Any, absent: Value
) -> Any | Value:
    """What `parse` makes of the file, in `shape`; `absent` where there is no such file."""
    if not path.is_file():
        return absent
    try:
        return TypeAdapter(shape).validate_python(parse(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise _damaged(path, f"{place}: {fault['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{str(path)!r} is not what lorakit writes there: {reason}. Restore it, or delete it: the "
        "report then says that it is not there."
    )


def _json_lines(path: Path) -> list[Any]:
    # Not splitlines, which also splits at characters that JSON texts may hold, such as U+2028.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
