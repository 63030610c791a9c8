"""The child process that compares formulas; started by `_math_process.py`, never imported.

Protocol, both ways: 8 bytes of length (big endian), then JSON: a pair of formulas comes in, true or
false goes out; "ready" goes out first.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import BinaryIO

from math_verify import LatexExtractionConfig, parse, verify

FORMULAS = [LatexExtractionConfig()]


def main(extra_bytes: int) -> None:
    """Answer requests until stdin closes."""
    parse(r"$\frac{1}{2}$", FORMULAS, parsing_timeout=None)  # loads the grammar
    _limit_memory(extra_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _write(answers, "ready")
    while (request := _read(requests)) is not None:
        _write(answers, _equal(*request))


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


def _limit_memory(extra_bytes: int) -> None:
    """Cap the address space at what it is now plus `extra_bytes` (on Linux; elsewhere the time
    limit alone holds)."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(stream: BinaryIO) -> list[str] | None:
    header = stream.read(8)
    if len(header) < 8:
        return None
    return json.loads(stream.read(struct.unpack(">Q", header)[0]))


def _write(stream: BinaryIO, answer: object) -> None:
    data = json.dumps(answer).encode()
    stream.write(struct.pack(">Q", len(data)) + data)
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
