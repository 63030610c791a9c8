"""Rendering in a child process that is killed when a template runs too long or grows too large.

One child serves the whole process and starts at the first use (0.3 s). It ends with its parent.
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

from lorakit.errors import DataError, RunError

START_SECONDS = 120.0
RENDER_SECONDS = 20.0
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 32 << 20
# Of requests that share a trip: enough that the trip costs nothing, so few that others need not
# wait for the child, and that the answers are a small part of its memory.
BATCH_BYTES = 256 << 10

Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Rendering:
    """What a template is to render.

    Attributes:
        source: the template.
        messages, tools: as the template takes them.
        special: the special tokens by name.
        prompt: with the generation prompt.
        marked: with the spans of `{% generation %}` blocks.
    """

    source: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    special: dict[str, Any]
    prompt: bool = False
    marked: bool = False


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
        self._is_ready = False
        self._loaded: set[str] = set()

    def start(self) -> None:
        """Start the child without waiting for it to be ready."""
        with self._lock:
            self._launch()

    def render(self, rendering: Rendering) -> tuple[str, Spans]:
        """The rendered text, and the spans of `{% generation %}` blocks if `marked`.

        Raises:
            DataError: the template refuses the messages, or breaks a limit.
            RunError: the child could not be started.
        """
        answer = self._ask([rendering.source], json.dumps(_request(rendering)).encode())
        if answer is None:
            raise DataError(
                f"the chat template did not finish a row within {self._seconds:.0f} s or "
                f"{MEMORY_BYTES >> 20} MiB, and was stopped; use another chat_template"
            )
        return _read_answer(answer)

    def render_many(self, renderings: Sequence[Rendering]) -> list[str | DataError]:
        """The texts, in order, or what `render` would raise: many of them in one trip."""
        texts: list[str | DataError] = []
        for batch, request in _batches(renderings):
            answer = self._ask({rendering.source for rendering in batch}, request)
            if answer is None:  # one of them hangs or grows: each by itself shows which
                texts += [self._text_or_error(rendering) for rendering in batch]
            else:
                texts += [_text_or_error(one) for one in answer["answers"]]
        return texts

    def _text_or_error(self, rendering: Rendering) -> str | DataError:
        try:
            return self.render(rendering)[0]
        except DataError as error:
            return error

    def _ask(self, sources: Iterable[str], request: bytes) -> dict[str, Any] | None:
        """The child's answer to a request that renders `sources`; None after killing it."""
        with self._lock:
            try:
                child = self._loaded_with(sources)
                self._send(child, request)
            except BrokenPipeError:  # somebody ended the child between two requests
                self.close()
                child = self._loaded_with(sources)
                self._send(child, request)
            return self._receive(child, self._seconds)

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

    def _loaded_with(self, sources: Iterable[str]) -> subprocess.Popen[bytes]:
        """The running child, which knows the templates `sources` by their keys."""
        child = self._started()
        for source in sources:
            key = _key(source)
            if key not in self._loaded:
                self._send(child, json.dumps({"load": key, "source": source}).encode())
                self._loaded.add(key)
        return child

    def _launch(self) -> None:
        if self._child is not None and self._owner == os.getpid():
            return
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
        self._is_ready = False

    def _started(self) -> subprocess.Popen[bytes]:
        """The running child, ready for requests."""
        self._launch()
        child = self._child
        assert child is not None
        if not self._is_ready and self._receive(child, START_SECONDS) is None:
            raise RunError(
                "the process that renders chat templates did not start; check that "
                f"`{sys.executable} -c 'import transformers'` works."
            )
        self._is_ready = True
        return child

    def _send(self, child: subprocess.Popen[bytes], data: bytes) -> None:
        stdin = child.stdin
        assert stdin is not None
        stdin.write(struct.pack(">Q", len(data)) + data)
        stdin.flush()

    def _receive(self, child: subprocess.Popen[bytes], seconds: float) -> dict[str, Any] | None:
        """The child's answer; None after killing it for silence."""
        stdout = child.stdout
        assert stdout is not None
        deadline = time.monotonic() + seconds
        header = read_exactly(stdout, 8, deadline)
        data = header and read_exactly(stdout, struct.unpack(">Q", header)[0], deadline)
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


@lru_cache(maxsize=16)
def _key(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _request(rendering: Rendering) -> dict[str, Any]:
    return {
        "render": _key(rendering.source),
        "messages": rendering.messages,
        "tools": rendering.tools,
        "special": rendering.special,
        "prompt": rendering.prompt,
        "marked": rendering.marked,
    }


def _batches(renderings: Sequence[Rendering]) -> Iterator[tuple[list[Rendering], bytes]]:
    """Renderings that share a trip, and the request for them."""
    batch: list[Rendering] = []
    parts: list[bytes] = []
    size = 0
    for rendering in renderings:
        part = json.dumps(_request(rendering)).encode()
        if batch and size + len(part) > BATCH_BYTES:
            yield batch, b'{"rows": [%b]}' % b", ".join(parts)
            batch, parts, size = [], [], 0
        batch.append(rendering)
        parts.append(part)
        size += len(part)
    if batch:
        yield batch, b'{"rows": [%b]}' % b", ".join(parts)


def _read_answer(answer: dict[str, Any]) -> tuple[str, Spans]:
    if "error" in answer:
        raise DataError(f"the chat template refuses it: {answer['error']}")
    return answer["text"], [(start, end) for start, end in answer["spans"]]


def _text_or_error(answer: dict[str, Any]) -> str | DataError:
    try:
        return _read_answer(answer)[0]
    except DataError as error:
        return error


def read_exactly(pipe: IO[bytes], count: int, deadline: float) -> bytes | None:
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
