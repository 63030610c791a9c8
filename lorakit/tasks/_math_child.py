"""What the child of `_processes.math_process` does; nobody imports it.

`lorakit/child/serve.py` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

FORMULAS = [LatexExtractionConfig()]


def start() -> Callable[[Any], bool]:
    """Requests are pairs of formulas."""
    parse(r"$\frac{1}{2}$", FORMULAS, parsing_timeout=None)  # loads the grammar
    return lambda pair: _equal(*pair)


def _equal(answer: str, reference: str) -> bool:
    """Without math-verify's own timeouts: the parent has its own."""
    given, wanted = (
        parse(
            f"${text.replace('$', '')}$",
            FORMULAS,
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        for text in (answer, reference)
    )
    return bool(given and wanted and verify(wanted, given, timeout_seconds=None))
