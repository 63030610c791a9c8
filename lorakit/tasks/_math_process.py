"""Comparing formulas in a child process that is killed when it runs too long or grows too large.

math-verify stops itself by signals, which only a main thread gets; SymPy may work for ever on
`9^{9^{9^9}}`. One child serves the whole process, starts at the first use (a second or two), and
ends with its parent.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from lorakit.child.process import ChildError, ChildProcess

COMPARE_SECONDS = 5.0


class MathProcess:
    """A child process that compares formulas, one pair at a time.

    Args:
        seconds: wall time of one comparison.
    """

    def __init__(self, seconds: float = COMPARE_SECONDS) -> None:
        self._seconds = seconds
        self.child = ChildProcess(
            "the process that compares formulas",
            Path(__file__).with_name("_math_child.py"),
            needs="math_verify",
        )

    def equal(self, answer: str, reference: str) -> bool | None:
        """Whether two formulas (LaTeX, without dollar signs) mean the same.

        Returns:
            None for a comparison that broke a limit.

        Raises:
            RunError: the child could not be started.
        """
        try:
            equal: bool = self.child.ask(json.dumps([answer, reference]).encode(), self._seconds)
        except ChildError:
            return None
        return equal


@cache
def math_process() -> MathProcess:
    """The one child of this process."""
    return MathProcess()
