"""Rendering in a child process that is killed when a template runs too long or grows too large.

One child serves the whole process and starts at the first use (0.7 s). It ends with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import IO, Any

from lorakit.errors import DataError, RunError

START_SECONDS = 120.0
RENDER_SECONDS = 20.0
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 32 << 20


class TemplateProcess:
    """A child process that renders chat templates, one request at a time.

    Args:
        seconds: wall time of one rendering.
    """

    def __init__(self, seconds: float = RENDER_SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._loaded: set[str] = set()

    def render(
        self,
        source: str,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]],
        special: dict[str, Any],
        prompt: bool,
        marked: bool,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The rendered text, and the spans of `{% generation %}` blocks if `marked`.

        Raises:
            DataError: the template refuses the messages, or breaks a limit.
            RunError: the child could not be started.
        """
        key = hashlib.sha256(source.encode()).hexdigest()
        request = {
            "render": key,
            "messages": messages,
            "tools": tools,
            "special": special,
            "prompt": prompt,
            "marked": marked,
        }
        with self._lock:
            try:
                child = self._loaded_with(key, source)
                self._send(child, request)
            except BrokenPipeError:  # somebody ended the child between two requests
                self.close()
                child = self._loaded_with(key, source)
                self._send(child, request)
            answer = self._receive(child, self._seconds)
        if answer is None:
            raise DataError(
                f"the chat template did not finish a row within {self._seconds:.0f} s or "
                f"{MEMORY_BYTES >> 20} MiB, and was stopped; use another chat_template"
            )
        if "error" in answer:
            raise DataError(f"the chat template refuses it: {answer['error']}")
        return answer["text"], [(start, end) for start, end in answer["spans"]]

    def close(self) -> None:
        """End the child, if this process started it."""
        child, self._child = self._child, None
        self._loaded.clear()
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # closing flushes
                    pipe.close()

    def _loaded_with(self, key: str, source: str) -> subprocess.Popen[bytes]:
        """The running child, which knows the template `source` as `key`."""
        child = self._started()
        if key not in self._loaded:
            self._send(child, {"load": key, "source": source})
            self._loaded.add(key)
        return child

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner == os.getpid():
            return self._child
        self._loaded.clear()
        self._owner = os.getpid()
        self._child = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(Path(__file__).with_name("template_child.py")),
                str(MEMORY_BYTES),
                str(MAX_CHARACTERS),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which ends the child itself
        )
        if self._receive(self._child, START_SECONDS) is None:
            raise RunError(
                "the process that renders chat templates did not start; check that "
                f"`{sys.executable} -c 'import transformers'` works."
            )
        return self._child

    def _send(self, child: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        stdin = child.stdin
        assert stdin is not None
        stdin.write(struct.pack(">Q", len(data)) + data)
        stdin.flush()

    def _receive(self, child: subprocess.Popen[bytes], seconds: float) -> dict[str, Any] | None:
        """The child's answer; None after killing it for silence."""
        stdout = child.stdout
        assert stdout is not None
        deadline = time.monotonic() + seconds
        header = _read_exactly(stdout, 8, deadline)
        data = header and _read_exactly(stdout, struct.unpack(">Q", header)[0], deadline)
        if not data:
            self.close()
            return None
        answer: dict[str, Any] = json.loads(data)
        return answer


@cache
def template_process() -> TemplateProcess:
    """The one child of this process."""
    process = TemplateProcess()
    atexit.register(process.close)
    return process


def _read_exactly(pipe: IO[bytes], count: int, deadline: float) -> bytes | None:
    """`count` bytes of the pipe, or None at its end or the deadline."""
    chunks: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while count > 0:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = os.read(pipe.fileno(), min(count, 1 << 20))
            if not chunk:
                return None
            chunks.append(chunk)
            count -= len(chunk)
    return b"".join(chunks)
