"""One process in the jail: started, fed, listened to within limits, and gone when it is closed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from lorakit.errors import RunError, printable

CHUNK_BYTES = 1 << 16
TAIL_BYTES = 2048  # kept of what it writes to its standard error
GONE_SECONDS = 10.0  # the kernel needs milliseconds to end what was killed

_FIXES = {
    errno.EMFILE: "Allow more open files (`ulimit -n`)",
    errno.ENFILE: "Allow more open files (sysctl fs.file-max), or end other programs",
    errno.EAGAIN: "Allow more processes (`ulimit -u`, or the container's limit of them)",
    errno.ENOMEM: "Free memory, or run on a machine with more",
    errno.ENOENT: "See that bubblewrap is still installed",
}

_INNER_PID = re.compile(rb'"child-pid": (\d+)\D')


@dataclass(frozen=True)
class Limits:
    """What one piece of Python may take, all its calls together.

    Attributes:
        seconds: wall time, the start of Python (hundredths) included.
        cpu_seconds: processor time.
        memory_bytes: its address space, that of Python itself (some 30 MB) included.
        output_bytes: answers, standard output and standard error together.
    """

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    output_bytes: int = 4 << 20


@dataclass(frozen=True)
class Descriptors:
    """What the started program finds open.

    Attributes:
        files: to read, in the order they were given.
        info: for bwrap's `--info-fd`.
        started: for the byte that says that the inside has taken its limits.
    """

    files: tuple[int, ...]
    info: int
    started: int


class NoAnswerError(Exception):
    """Why nothing more comes, as the end of a sentence about the code."""


class Contained:
    """A running jail. Use it as a context: at the end all of it is gone, whatever it does.

    Args:
        command: makes the command.
        files: what bwrap reads from descriptors.
        limits: time and output; memory and processor time are limited inside.

    Raises:
        RunError: it could not be started, the system refused what it needs, or something of it is
            left.
    """

    def __init__(
        self,
        command: Callable[[Descriptors], list[str]],
        files: Sequence[bytes],
        limits: Limits,
    ) -> None:
        self._limits, self._deadline = limits, time.monotonic() + limits.seconds
        self._written, self._tail, self._answers = 0, b"", bytearray()
        self._unsent, self._closing_input, self._has_ended = memoryview(b""), False, False
        with (
            _refusals(),
            contextlib.ExitStack() as owned,
            contextlib.ExitStack() as handed_over,
        ):
            numbers = [handed_over.enter_context(_as_file(data)).fileno() for data in files]
            self._info, info = _pipe(owned, handed_over)
            self._started, started = _pipe(owned, handed_over)
            self._process = owned.enter_context(
                subprocess.Popen(
                    command(Descriptors(tuple(numbers), info, started)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    env={},  # bwrap's own could be read inside, if there were a /proc
                    cwd="/",
                    pass_fds=(*numbers, info, started),
                    start_new_session=True,  # Ctrl-C is for the run, which ends the jail itself
                )
            )
            owned.callback(self._kill)
            self._ended = os.pidfd_open(self._process.pid)
            owned.callback(os.close, self._ended)
            self._owned = owned.pop_all()
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._input, self._output, self._errors = (pipe.fileno() for pipe in pipes if pipe)
        os.set_blocking(self._input, False)
        self._open = {self._output, self._errors}

    def __enter__(self) -> Contained:
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    def exchange(self, message: bytes) -> bytes:
        """Send a message and read a line, without its end.

        Raises:
            NoAnswerError: none came.
        """
        with _refusals():
            return self._exchange(message)

    def _exchange(self, message: bytes) -> bytes:
        self._unsent = memoryview(message)
        while (end := self._answers.find(b"\n")) < 0:
            if self._output not in self._open:
                raise NoAnswerError(self._how_it_ended())
            self._turn()
        line = bytes(self._answers[:end])
        del self._answers[: end + 1]
        return line

    def run(self, given: bytes) -> bytes:
        """What it writes to its standard output when `given` is all of its input, and it ends.

        Raises:
            NoAnswerError: a limit ended it, or a signal.
        """
        self._unsent, self._closing_input = memoryview(given), True
        with _refusals():
            while self._open or not self._has_ended:
                self._turn()
        if self._signal():  # other exit codes mean nothing: anybody can choose them
            raise NoAnswerError(self._how_it_ended())
        return bytes(self._answers)

    def check_started(self) -> None:
        """To be called when nothing came: was it the code, or the jail?

        Raises:
            RunError: the jail did not get as far as the code.
        """
        os.set_blocking(self._started, False)
        with contextlib.suppress(BlockingIOError):
            if os.read(self._started, 1):
                return
        if not self._has_ended:
            raise RunError(
                f"the jail of code rewards was not ready within {self._limits.seconds:g} s; the "
                "machine is overloaded. Run fewer at a time, or allow more seconds."
            )
        raise RunError(f"the jail of code rewards did not start: {self.last_words() or 'no word'}")

    def last_words(self) -> str:
        """The last line it wrote to its standard error, fit for a terminal."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").split("\n")]
        return printable(next((line for line in reversed(lines) if line), ""))

    def _turn(self) -> None:
        """Wait until something can be written or read, and do it."""
        waiting = select.poll()
        if self._unsent:
            waiting.register(self._input, select.POLLOUT)
        elif self._closing_input:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._closing_input = False
        for number in self._open:
            waiting.register(number, select.POLLIN)
        if not self._has_ended:
            waiting.register(self._ended, select.POLLIN)
        left = self._deadline - time.monotonic()
        for number, _ in waiting.poll(1000 * max(0.0, left)):
            if number == self._input:
                self._send()
            elif number == self._ended:
                self._has_ended = True
            else:
                self._receive(number)
        if time.monotonic() >= self._deadline:
            raise NoAnswerError(f"took more than {self._limits.seconds:g} s")

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._input, self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # nobody reads it; whatever is answered is still heard
            self._unsent = memoryview(b"")

    def _receive(self, number: int) -> None:
        chunk = os.read(number, CHUNK_BYTES)
        if not chunk:
            self._open.discard(number)
        elif number == self._output:
            self._answers += chunk
        else:
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        self._written += len(chunk)
        if self._written > self._limits.output_bytes:
            raise NoAnswerError(f"wrote more than {self._limits.output_bytes:,} bytes")

    def _signal(self) -> int:
        """The signal that ended it; 0: none did."""
        status = self._process.wait(GONE_SECONDS)
        if status < 0:
            return -status
        return status - 128 if 128 < status <= 192 else 0  # as bwrap and shells tell it

    def _how_it_ended(self) -> str:
        if not _readable([self._ended], GONE_SECONDS / 100):
            return "closed the pipe of its answers"
        self._has_ended = True
        while self._errors in self._open:
            self._receive(self._errors)
        how = f"ended by itself (exit code {self._process.wait(GONE_SECONDS)})"
        if self._signal() == signal.SIGKILL:
            how = (
                f"was killed: it took more than {self._limits.cpu_seconds} s of processor time, or "
                "the machine has no memory left"
            )
        elif self._signal():
            how = f"was ended by signal {self._signal()}"
        words = self.last_words()
        return f"{how}: {words}" if words else how

    def _kill(self) -> None:
        """Kill bwrap, which takes the inside along, and wait until that is gone too."""
        inner = self._inner()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if inner is not None:
            try:
                if not _readable([inner], GONE_SECONDS):
                    raise RunError(
                        f"a process of the jail of code rewards is still there {GONE_SECONDS:g} s "
                        "after it was killed; nothing more is run. Look for it with `ps` "
                        f"(its parent was {self._process.pid}) and end it."
                    )
            finally:
                os.close(inner)

    def _inner(self) -> int | None:
        """A descriptor of the process inside, while bwrap, whose child it is, has not ended.

        Before bwrap has told its number it must not be killed: its child would wait for it.
        """
        told = b""
        while (found := _INNER_PID.search(told)) is None:
            if not _readable([self._info], GONE_SECONDS):
                return None
            if not (chunk := os.read(self._info, CHUNK_BYTES)):  # it never had a child
                return None
            told += chunk
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                return os.pidfd_open(int(found[1]))
        return None


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the system refuses as an error that says what to do."""
    try:
        yield
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, "Run fewer at a time, or see what the system lacks")
        raise RunError(
            f"the system refused the jail of code rewards what it needs: "
            f"{error.strerror or error}. {fix}; then resume."
        ) from error


def _pipe(owned: contextlib.ExitStack, handed_over: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe to listen to what bwrap says."""
    ours, its = os.pipe()
    owned.callback(os.close, ours)
    handed_over.callback(os.close, its)
    return ours, its


def _readable(numbers: Sequence[int], seconds: float) -> list[int]:
    """Those of which something, or the end, can be read in time."""
    waiting = select.poll()  # `select` knows no descriptors above 1023
    for number in numbers:
        waiting.register(number, select.POLLIN)
    return [number for number, _ in waiting.poll(1000 * seconds)]


def _as_file(data: bytes) -> IO[bytes]:
    """A file in memory that is read from its start."""
    file = os.fdopen(os.memfd_create("jail"), "w+b")
    file.write(data)
    file.seek(0)
    return file
