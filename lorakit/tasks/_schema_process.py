"""Holding JSON to a schema in a child process that is killed when it runs too long.

A `pattern` of nested repetitions, or alternatives inside of alternatives, can take longer than the
universe on a value of forty characters, and Python's own `re` knows no time limit. One child serves
the whole process, starts at the first use (0.3 s), and ends with its parent.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from lorakit.child.process import ChildProcess, LostChildError

ACCEPT_SECONDS = 5.0


class SchemaProcess:
    """A child process that holds values to schemas, one at a time.

    Args:
        seconds: wall time of one value.
    """

    def __init__(self, seconds: float = ACCEPT_SECONDS) -> None:
        self._seconds = seconds
        self.child = ChildProcess(
            "the process that holds answers to JSON schemas",
            Path(__file__).with_name("_schema_child.py"),
            needs="jsonschema",
        )

    def accepts(self, schema: str, value: str) -> bool | str | None:
        """Whether a schema accepts a value; both are JSON texts.

        Returns:
            What the schema refers to and has not, where it does; None for a value that broke a
            limit.

        Raises:
            RunError: the child could not be started, or failed.
        """
        try:
            found: bool | str | None = self.child.ask(
                json.dumps([schema, value]).encode(), self._seconds
            )
        except LostChildError:
            return None
        return found


@cache
def schema_process() -> SchemaProcess:
    """The one child of this process."""
    return SchemaProcess()
