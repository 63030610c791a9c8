"""Comparing formulas in a child process that is killed when it runs too long or grows too large.

math-verify stops itself by signals, which only a main thread gets; SymPy may work for ever on
`9^{9^{9^9}}`. One child serves the whole process, starts at the first use (a second or two), and
ends with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

from lorakit.data.template_process import read_exactly
from lorakit.errors import RunError

START_SECONDS = 120.0
COMPARE_SECONDS = 5.0
MEMORY_BYTES = 1 << 30


class MathProcess:
    """A child process that compares formulas, one pair at a time.

    Args:
        seconds: wall time of one comparison.
    """

    def __init__(self, seconds: float = COMPARE_SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def equal(self, answer: str, reference: str) -> bool | None:
        """Whether two formulas (LaTeX, without dollar signs) mean the same.

        Returns:
            None for a comparison that broke a limit; the child was killed.

        Raises:
            RunError: the child could not be started.
        """
        request = json.dumps([answer, reference]).encode()
        with self._lock:
            child = self._started()
            try:
                _send(child, request)
            except BrokenPipeError:  # somebody ended the child between two requests
                self.close()
                child = self._started()
                _send(child, request)
            reply = _receive(child, self._seconds)
            if reply is None:
                self.close()
                return None
            return reply == b"true"

    def close(self) -> None:
        """End the child, if this process started it."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # closing flushes
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        """The running child, ready for requests."""
        if self._child is not None and self._owner == os.getpid():
            return self._child
        self._owner = os.getpid()
        self._child = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(Path(__file__).with_name("_math_child.py")),
                str(MEMORY_BYTES),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which ends the child itself
        )
        if _receive(self._child, START_SECONDS) is None:
            self.close()
            raise RunError(
                "the process that compares formulas did not start; check that "
                f"`{sys.executable} -c 'import math_verify'` works."
            )
        return self._child


@cache
def math_process() -> MathProcess:
    """The one child of this process."""
    process = MathProcess()
    atexit.register(process.close)
    return process


def _send(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(struct.pack(">Q", len(data)) + data)
    child.stdin.flush()


def _receive(child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The child's answer; None for silence."""
    assert child.stdout is not None
    deadline = time.monotonic() + seconds
    header = read_exactly(child.stdout, 8, deadline)
    return header and read_exactly(child.stdout, struct.unpack(">Q", header)[0], deadline)
