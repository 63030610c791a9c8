"""What compares two texts in a child process, which is killed when it runs too long or grows too
large.

Formulas: math-verify stops itself by signals, which only a main thread gets; SymPy may work for
ever on `9^{9^{9^9}}`. JSON schemas: a `pattern` of nested repetitions, or alternatives inside of
alternatives, can take longer than the universe on a value of forty characters, and Python's own
`re` knows no time limit. One child of each kind serves the whole process, starts at the first use
(0.3 s to two seconds), and ends with its parent.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from lorakit.child.process import ChildError, ChildProcess, LostChildError

SECONDS = 5.0  # wall time of one pair


class PairProcess:
    """A child process that answers one pair of texts at a time.

    Args:
        name: what it is, for errors.
        file: of this folder; what it does.
        needs: what must be importable for it.
        seconds: wall time of one pair.
        unanswered: what a pair without an answer ends in; other errors of the child are raised.
    """

    def __init__(
        self,
        name: str,
        file: str,
        *,
        needs: str,
        seconds: float,
        unanswered: type[ChildError],
    ) -> None:
        self._seconds, self._unanswered = seconds, unanswered
        self.child = ChildProcess(name, Path(__file__).with_name(file), needs=needs)

    def ask(self, first: str, second: str) -> Any:
        """What the child says of two texts; None for a pair that broke a limit.

        Raises:
            RunError: the child could not be started, or failed.
        """
        try:
            return self.child.ask(json.dumps([first, second]).encode(), self._seconds)
        except self._unanswered:
            return None


@cache
def math_process(seconds: float = SECONDS) -> PairProcess:
    """Whether two formulas (LaTeX, without dollar signs) mean the same. What math-verify fails at
    is not answered either."""
    return PairProcess(
        "the process that compares formulas",
        "_math_child.py",
        needs="math_verify",
        seconds=seconds,
        unanswered=ChildError,
    )


@cache
def schema_process(seconds: float = SECONDS) -> PairProcess:
    """Whether a schema accepts a value, both JSON texts; or what the schema refers to and has not,
    a text."""
    return PairProcess(
        "the process that holds answers to JSON schemas",
        "_schema_child.py",
        needs="jsonschema",
        seconds=seconds,
        unanswered=LostChildError,
    )
