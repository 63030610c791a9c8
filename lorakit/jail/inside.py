"""The jail's inside, which `contained.py` starts as a program; nothing it says is believed.

    python inside.py KIND STARTED MEMORY_BYTES CPU_SECONDS FUNCTION

It takes its limits, says so on the descriptor STARTED, and then runs /solution.py, in KIND
`program` as the main module with its own input and output. In KIND `function` it imports it and
calls FUNCTION (`name`, or `Class.method` of a new object) as often as it is asked: a request is
eight bytes of length and (nonce, arguments) by marshal; an answer is one line of JSON, the nonce
with `value` or `error`. Expected values are not known here, so a forged answer is a guess.

Only modules that are there anyway are imported: json alone would nearly double the start.
"""

from __future__ import annotations

import builtins
import marshal
import os
import resource
import sys
from importlib.machinery import SourceFileLoader

SOLUTION = "/solution.py"
ERROR_CHARACTERS = 300

_ESCAPES = {number: f"\\u{number:04x}" for number in range(32)} | {34: '\\"', 92: "\\\\"}


def main(kind: str, started: str, memory_bytes: str, cpu_seconds: str, function: str) -> None:
    """Run the solution within its limits."""
    for limit, value in _other_limits():
        resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds)))
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    os.write(int(started), b"s")
    os.close(int(started))
    if kind == "program":
        sys.argv = [SOLUTION]
        _load("__main__")
    else:
        _answer_calls(function)


def _other_limits():
    """Descriptors, core dumps, files to write, processes, locked memory, message queues, signals.

    A function, because some of these names are Linux's alone and this file is imported elsewhere.
    """
    return (
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
    )


def _load(name: str):
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # Python's `site` would have brought them
    loader = SourceFileLoader(name, SOLUTION)
    module = type(sys)(name)
    module.__file__, module.__loader__ = SOLUTION, loader
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _answer_calls(function: str) -> None:
    requests, answers = _private_pipes()
    module = None
    while length := _read(requests, 8):
        nonce, arguments = marshal.loads(_read(requests, int.from_bytes(length, "big")))
        try:
            module = module or _load("solution")
            told = f'"value":{_json(_callable(module, function)(*arguments))}'.encode()
        except BaseException as error:  # noqa: BLE001 - a solution may raise anything
            told = f'"error":{_quoted(_words(error))}'.encode(errors="replace")
        _write(answers, b'{"nonce":"%s",%s}\n' % (nonce.encode(), told))
        if module is None:
            break  # what cannot be imported is not tried again
    os._exit(0)


def _private_pipes() -> tuple[int, int]:
    """Requests and answers, where no `print` and no `input` of the solution finds them."""
    requests, answers = os.dup(0), os.dup(1)
    at_its_end = os.open(SOLUTION, os.O_RDONLY)  # there is no /dev/null to read nothing from
    os.lseek(at_its_end, 0, os.SEEK_END)
    os.dup2(at_its_end, 0)
    os.close(at_its_end)
    os.dup2(2, 1)
    return requests, answers


def _callable(module, function: str):
    owner, _, method = function.rpartition(".")
    return getattr(getattr(module, owner)() if owner else module, method)


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]
    except BaseException:  # noqa: BLE001 - its own __str__ may fail
        return type(error).__name__


def _json(value) -> str:
    """JSON of plain values alone. Containers are read as their built-in base has them, whatever
    their class says; classes derived from numbers and texts are refused."""
    kind = type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return repr(value)
    if kind is float and value - value == 0:  # neither NaN nor infinite
        return repr(value)
    if kind is str:
        return _quoted(value)
    if issubclass(kind, (list, tuple)):
        base = list if issubclass(kind, list) else tuple
        return f"[{','.join([_json(one) for one in base.__iter__(value)])}]"
    if issubclass(kind, dict):
        return f"{{{','.join([_pair(*pair) for pair in dict.items(value)])}}}"
    what = repr(value) if kind is float else f"something of type {kind.__name__}"
    raise TypeError(f"the value returned holds {what}, which JSON has not")


def _pair(key, value) -> str:
    if type(key) is not str:
        raise TypeError(f"the value returned has a key of type {type(key).__name__}, JSON only str")
    return f"{_quoted(key)}:{_json(value)}"


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _read(pipe: int, count: int) -> bytes:
    """So many bytes, or fewer where the pipe ends."""
    chunks = []
    while count > 0 and (chunk := os.read(pipe, min(count, 1 << 20))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
