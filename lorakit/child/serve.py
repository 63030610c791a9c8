"""The child's side of `process.py`, which runs this file as a program.

    python serve.py FILE START_SECONDS MEMORY_BYTES ARGUMENT...

FILE defines `start(*arguments) -> answer`; `answer(request)` takes and gives what JSON can hold
(NaN and infinity too). Standard library alone: FILE decides what is loaded.

Both ways a message is a header, then JSON. The header of a request: its length (8 bytes, big
endian) and the seconds it may take (float64); of an answer: its length and a byte, one of
STARTED, ANSWERED, RAISED.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

REQUEST, ANSWER = struct.Struct(">Qd"), struct.Struct(">Qc")
STARTED, ANSWERED, RAISED = b"s", b"a", b"r"
# The parent stops the child in time. Should it be gone itself, the system does, so much later.
GRACE_SECONDS = 5.0
MESSAGE_CHARACTERS, TRACE_CHARACTERS = 300, 4000


def main(file: str, start_seconds: str, memory_bytes: str, *arguments: str) -> None:
    """Answer requests until the parent goes."""
    requests, answers = _private_pipes()
    _end_in(float(start_seconds) + GRACE_SECONDS)
    answer = _load(file).start(*arguments)
    _limit(int(memory_bytes))
    _end_in(0)
    _write(answers, STARTED, b"null")
    while (received := _read(requests)) is not None:
        request, seconds = received
        _end_in(seconds + GRACE_SECONDS)
        told = _told(answer, request)
        _end_in(0)
        _write(answers, *told)
    os._exit(0)  # whatever threads were left behind


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Requests and answers, where no `print` and no `input` of the code that is run finds them."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _load(file: str) -> Any:
    spec = importlib.util.spec_from_file_location("served", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _told(answer: Callable[[Any], Any], request: Any) -> tuple[bytes, bytes]:
    """What became of a request, for `_write`."""
    try:
        return ANSWERED, json.dumps(answer(request)).encode()
    except BaseException as error:  # noqa: BLE001 - somebody else's code may raise anything
        told = {"type": type(error).__name__, "message": "", "trace": ""}
        with contextlib.suppress(Exception):  # its own __str__ may fail
            told["message"] = str(error)[:MESSAGE_CHARACTERS]
        with contextlib.suppress(Exception):
            told["trace"] = "".join(traceback.format_exception(error))[-TRACE_CHARACTERS:]
        return RAISED, json.dumps(told).encode()


def _end_in(seconds: float) -> None:
    """The system ends this process after so many seconds, whatever it does; 0: never."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit(extra_bytes: int) -> None:
    """Cap the address space at what it is now plus `extra_bytes` (on Linux; elsewhere the time
    limit alone holds)."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(stream: BinaryIO) -> tuple[Any, float] | None:
    header = stream.read(REQUEST.size)
    if len(header) < REQUEST.size:
        return None
    length, seconds = REQUEST.unpack(header)
    data = stream.read(length)
    return (json.loads(data), seconds) if len(data) == length else None


def _write(stream: BinaryIO, kind: bytes, data: bytes) -> None:
    stream.write(ANSWER.pack(len(data), kind) + data)
    stream.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
