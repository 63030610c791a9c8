"""Somebody else's code (a chat template, a formula, a reward function) in a process of its own.

It may run for ever, fill the memory, die or write without end: the child is killed, the caller is
told, and the next request gets a new child. A new interpreter, never a copy of this process, so
neither threads nor a GPU here matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lorakit.child import serve
from lorakit.errors import RunError

START_SECONDS = 120.0
MEMORY_BYTES = 1 << 30
ANSWER_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
TAIL_BYTES = 4096  # kept of what the child writes to its standard error
LOOK_SECONDS = 0.5  # between two looks whether a silent child still lives
DEATH_SECONDS = 1.0  # from the end of a child's pipes to its own


class ChildError(RunError):
    """A request that got no answer."""


class CallError(ChildError):
    """The code that was asked raised an exception; the child goes on.

    Attributes:
        type_name: of the exception.
        trace: the end of its traceback.
    """

    def __init__(self, type_name: str, message: str, trace: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name, self.trace = type_name, trace


class LostChildError(ChildError):
    """The child took too long, died, or wrote too much; it is gone, and its state with it."""


class ChildProcess:
    """A process that answers one request at a time, started at the first one and when it is lost.

    It ends with this object or this process. A copy of this process by `fork` has a child of its
    own. Threads take turns.

    Args:
        name: what it is, for errors: "the process that compares formulas".
        file: Python code that `serve.py` runs; it says what `start` in there is to do.
        arguments: of `start`.
        needs: what must be importable for it to start, for the error that says so.
        memory_bytes: the child may take beyond what it has when it is ready (on Linux).
        answer_bytes: the longest answer.
        start_seconds: until it must be ready.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        arguments: Sequence[str] = (),
        *,
        needs: str | None = None,
        memory_bytes: int = MEMORY_BYTES,
        answer_bytes: int = ANSWER_BYTES,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._name, self._needs = name, needs
        self._answer_bytes, self._start_seconds = answer_bytes, start_seconds
        limits = [str(start_seconds), str(memory_bytes)]
        # -P: no folder of ours is looked into for modules.
        self._command = [sys.executable, "-P", serve.__file__, str(file), *limits, *arguments]
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the running child; None: there is none."""
        child = self._child if self._owner == os.getpid() else None
        return None if child is None else child.pid

    def start(self) -> None:
        """Start the child, if there is none, without waiting for it to be ready."""
        with self._own_lock():
            self._launched()

    def ask(
        self,
        request: bytes,
        seconds: float,
        *,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Any:
        """The child's answer.

        Args:
            request: JSON.
            seconds: wall time of the answer, beside that of a start.
            while_waiting: called twice a second at least; what it raises ends the child.

        Raises:
            CallError: the code that was asked raised an exception.
            LostChildError: it hung, died, or answered too much.
            RunError: the child could not be started.
        """
        message = serve.REQUEST.pack(len(request), seconds) + request
        with self._own_lock():
            child = self._ready(while_waiting)
            try:
                kind, value = child.exchange(message, seconds, self._answer_bytes, while_waiting)
            except BaseException as error:
                self._end()  # an answer that comes later would be taken for the next one's
                if isinstance(error, _SilenceError):
                    raise LostChildError(f"{self._name} {error}.") from error
                raise
        if kind == serve.RAISED:
            raise CallError(value["type"], value["message"], value["trace"])
        return value

    def close(self) -> None:
        """End the child, also in the midst of another thread's request."""
        child = self._child if self._owner == os.getpid() else None
        if child is not None:
            child.kill()
            with self._own_lock():
                self._end()

    def _own_lock(self) -> threading.Lock:
        """The lock of this process: after a fork, child and lock are those of another one."""
        if self._owner != os.getpid():
            self._owner, self._lock, self._child = os.getpid(), threading.Lock(), None
        return self._lock

    def _launched(self) -> _Child:
        if self._child is not None and self._child.has_ended():
            self._end()
        if self._child is None:
            self._child = _Child(self._command)
            # Also when this object is forgotten, or the interpreter ends.
            self._child.finalizer = weakref.finalize(self, self._child.end)
        return self._child

    def _ready(self, while_waiting: Callable[[], None]) -> _Child:
        child = self._launched()
        if not child.is_ready:
            try:
                child.exchange(b"", self._start_seconds, self._answer_bytes, while_waiting)
            except BaseException as error:
                self._end()
                if not isinstance(error, _SilenceError):
                    raise
                raise RunError(self._not_started(error)) from error
            child.is_ready = True
        return child

    def _not_started(self, error: _SilenceError) -> str:
        told = f"{self._name} did not start: it {error}"
        if self._needs is None:
            return f"{told}."
        return f"{told}; check that `{sys.executable} -c 'import {self._needs}'` works."

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.finalizer is not None:
            child.finalizer()


class _SilenceError(Exception):
    """Why no answer came, as the end of a sentence about the child."""


@dataclass(frozen=True)
class _Patience:
    """Until when an answer is waited for, on the monotonic clock, and what is done meanwhile."""

    deadline: float
    while_waiting: Callable[[], None]


class _Child:
    """One running process and the pipes to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.is_ready = False
        self.finalizer: weakref.finalize[Any, Any] | None = None
        self._owner = os.getpid()
        self._last_said = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the run, which ends the child itself
        )
        self.pid = self._process.pid
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._pipes: list[IO[bytes]] = [pipe for pipe in pipes if pipe is not None]
        self._requests, self._answers, self._errors = (pipe.fileno() for pipe in self._pipes)
        for number in (self._requests, self._errors):
            os.set_blocking(number, False)

    def has_ended(self) -> bool:
        """Whether the process has ended by itself. Its pid stays taken until `end`."""
        return self._how_it_ended() is not None

    def kill(self) -> None:
        """Stop the process and what it has started in its session."""
        if self._owner == os.getpid() and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the process and let go of it, if this process started it."""
        if self._owner != os.getpid():
            return
        self.kill()
        self._process.wait()
        for pipe in self._pipes:
            pipe.close()

    def exchange(
        self, message: bytes, seconds: float, answer_bytes: int, while_waiting: Callable[[], None]
    ) -> tuple[bytes, Any]:
        """Send a message, if it is not empty, and read the kind and the value of an answer.

        Raises:
            _SilenceError: none came.
        """
        patience = _Patience(time.monotonic() + seconds, while_waiting)
        try:
            self._send(memoryview(message), patience)
            length, kind = serve.ANSWER.unpack(self._receive(serve.ANSWER.size, patience))
            if length > answer_bytes:
                raise _SilenceError(f"answered with {length:,} bytes; {answer_bytes:,} are allowed")
            return kind, json.loads(self._receive(length, patience))
        except TimeoutError:
            raise _SilenceError(f"did not answer within {seconds:g} s") from None
        except (BrokenPipeError, EOFError):
            raise _SilenceError(self._last_words()) from None
        except (ValueError, RecursionError) as error:
            raise _SilenceError(f"answered what cannot be read ({error})") from error

    def _send(self, unsent: memoryview, patience: _Patience) -> None:
        while unsent:
            self._wait_for(self._requests, select.POLLOUT, patience)
            with contextlib.suppress(BlockingIOError):
                unsent = unsent[os.write(self._requests, unsent) :]

    def _receive(self, count: int, patience: _Patience) -> bytes:
        chunks = []
        while count > 0:
            self._wait_for(self._answers, select.POLLIN, patience)
            chunk = os.read(self._answers, min(count, CHUNK_BYTES))
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def _wait_for(self, pipe: int, event: int, patience: _Patience) -> None:
        """Wait until a pipe can be used, and take away what the child prints meanwhile, which would
        else block it."""
        while True:
            patience.while_waiting()
            waiting = select.poll()
            waiting.register(pipe, event)
            if self._errors >= 0:
                waiting.register(self._errors, select.POLLIN)
            left = patience.deadline - time.monotonic()
            found = [number for number, _ in waiting.poll(1000 * max(0, min(left, LOOK_SECONDS)))]
            if pipe in found:
                return
            if found:
                self._listen()
            elif self.has_ended():  # what it started may still hold the pipe
                raise EOFError
            if left <= 0:
                raise TimeoutError

    def _listen(self) -> None:
        """Read on from the child's standard error, of which the last bytes are kept."""
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._errors, CHUNK_BYTES)
            if not said:
                self._errors = -1
        self._last_said = (self._last_said + said)[-TAIL_BYTES:]

    def _how_it_ended(self) -> str | None:
        """The signal or the exit code; None: it has not."""
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else has waited for it
            return "ended"
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        return f"was ended by {signal.Signals(found.si_status).name}"

    def _last_words(self) -> str:
        """How the child ended and what it said last."""
        deadline = time.monotonic() + DEATH_SECONDS
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._errors >= 0:
            self._listen()
        how = self._how_it_ended() or "closed its pipes"
        lines = self._last_said.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last}" if last else how
