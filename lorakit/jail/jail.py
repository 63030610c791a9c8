"""Runs somebody else's Python on inputs and hands back what it made of them, as data.

The code computes in a jail (docs/jail.md says what holds it); whoever knows the right outputs is
out here and never sends them in. What comes back is JSON or text that the code may have forged at
will: compare it, and believe nothing else, no exit code and no words.
"""

from __future__ import annotations

import marshal
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lorakit.errors import InputError, RunError, printable
from lorakit.files import strict_json
from lorakit.jail import probe
from lorakit.jail.contained import Contained, Descriptors, Limits, NoAnswerError
from lorakit.jail.parts import Parts, check_kernel, find_parts

FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)?")

NAMESPACE_FIX = (
    "Allow user namespaces: sysctl user.max_user_namespaces=10000, on Debian also "
    "kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0; "
    "in a container, start it with --privileged, or with --security-opt seccomp=unconfined "
    "--security-opt systempaths=unconfined"
)
SECCOMP_FIX = "Use a kernel with CONFIG_SECCOMP_FILTER, and no emulated one (gVisor, WSL 1)"
LIMIT_FIX = "Use a kernel that enforces RLIMIT_AS and RLIMIT_CPU, and no emulated one (gVisor)"
BWRAP_FIX = "Use the bwrap of your distribution, 0.8.0 or newer, and no wrapper around it"
FIXES = {
    "processes": SECCOMP_FIX,
    "threads": SECCOMP_FIX,
    "sockets": SECCOMP_FIX,
    "memory": LIMIT_FIX,
    "processor time": LIMIT_FIX,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one call or one program.

    Attributes:
        value: what it returned, as JSON has it (a tuple is a list), or the text it wrote.
        fault: why there is none, in words fit for a terminal; None: there is a value.
    """

    value: Any = None
    fault: str | None = None


class Jail:
    """Runs code, each piece in a jail of its own; may be used by several threads at a time.

    `open_jail` makes one that was tried out.
    """

    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._parts, self._limits = parts, limits

    def call(self, source: str, function: str, calls: Sequence[Sequence[Any]]) -> list[Outcome]:
        """Import the code and call one of its functions, in one process, in this order.

        Args:
            source: Python; it is no main module.
            function: `name`, or `Class.method` for a method of a new `Class()` each time.
            calls: the positional arguments of each call: plain values, as JSON has them.

        Returns:
            An outcome for each call. After one that ended the process there are no more values.

        Raises:
            InputError: `function` is no such name.
            RunError: the jail could not be built this time.
        """
        if FUNCTION.fullmatch(function) is None:
            raise InputError(
                f"function {function!r} cannot be called; give `name` or `Class.method`."
            )
        outcomes: list[Outcome] = []
        with self._contained(source, "function", function) as contained:
            try:
                for arguments in calls:
                    outcomes.append(_called(contained, arguments))
            except NoAnswerError as error:
                contained.check_started()
                outcomes.append(Outcome(fault=f"the code {error}"))
        missing = len(calls) - len(outcomes)
        return outcomes + missing * [Outcome(fault="not called: a call before ended the process")]

    def run(self, source: str, given: str) -> Outcome:
        """Run the code as a program.

        Args:
            source: Python, the main module.
            given: its standard input.

        Returns:
            What it wrote to its standard output; a program that a limit or a signal ended has none.

        Raises:
            RunError: the jail could not be built this time.
        """
        with self._contained(source, "program", "") as contained:
            try:
                written = contained.run(given.encode(errors="replace"))
                contained.check_started()
                return Outcome(written.decode())
            except NoAnswerError as error:
                contained.check_started()
                return Outcome(fault=f"the program {error}")
            except UnicodeDecodeError as error:
                return Outcome(fault=f"the program wrote what is no UTF-8: {error.reason}")

    def _contained(self, source: str, kind: str, function: str) -> Contained:
        # A lone surrogate becomes bytes that Python refuses to compile.
        files = [source.encode("utf-8", "surrogatepass")]
        if self._parts.seccomp is not None:
            files.append(self._parts.seccomp)

        def command(descriptors: Descriptors) -> list[str]:
            return self._parts.command(self._limits, kind, function, descriptors)

        return Contained(command, files, self._limits)


def _called(contained: Contained, arguments: Sequence[Any]) -> Outcome:
    """One call. Its nonce is new: an answer that was there before the question is none."""
    nonce = secrets.token_hex(16)
    message = marshal.dumps((nonce, list(arguments)))
    line = contained.exchange(len(message).to_bytes(8, "big") + message)
    try:
        answer = strict_json(line.decode())
    except (ValueError, RecursionError) as error:
        raise NoAnswerError(
            f"answered what cannot be read: {printable(str(error))[:200]}"
        ) from None
    if not isinstance(answer, dict) or answer.pop("nonce", None) != nonce or len(answer) != 1:
        raise NoAnswerError("answered something that was not asked")
    if isinstance(answer.get("error"), str):
        return Outcome(fault=printable(answer["error"]))
    if "value" not in answer:
        raise NoAnswerError("answered something that was not asked")
    return Outcome(answer["value"])


def open_jail(limits: Limits | None = None, parts: Parts | None = None) -> Jail:
    """A jail whose walls were tried, which takes a fifth of a second.

    Args:
        limits: of each run; None: those of `Limits`.
        parts: what it is built of; None: found on this machine.

    Raises:
        InputError: a part is missing, or a wall does not stand; with its fix.
    """
    check_kernel()
    limits, parts = limits or Limits(), parts or find_parts()
    unfiltered = replace(parts, seccomp=None)
    walls = [*_open_walls(unfiltered, "unfiltered"), *_open_walls(parts, "filtered")]
    if walls:
        fixes = dict.fromkeys(FIXES.get(wall, BWRAP_FIX) for wall in walls)
        raise InputError(
            f"the jail of code rewards does not hold on this machine: {', '.join(walls)} not shut "
            f"off. {'. '.join(fixes)}; or remove the reward `code`."
        )
    return Jail(parts, limits)


@cache
def jail() -> Jail:
    """The jail of this process, with the limits that `Limits` has.

    Raises:
        InputError: it cannot be built here.
    """
    return open_jail()


def _open_walls(parts: Parts, which: str) -> list[str]:
    source = Path(probe.__file__).read_text(encoding="utf-8")
    try:
        outcome = Jail(parts, Limits()).run(source, which)
    except RunError as error:
        raise InputError(f"{error}. {_fix_of_start(str(error))}.") from error
    *walls, last = (outcome.value or "").splitlines() or [""]
    if last != "done":
        raise InputError(
            "the jail of code rewards could not be tried out: "
            f"{outcome.fault or 'the trial broke off'}. {BWRAP_FIX}, or remove the reward `code`."
        )
    return walls


def _fix_of_start(told: str) -> str:
    """What helps where bwrap says why it cannot start."""
    if re.search(r"seccomp", told, re.IGNORECASE):
        return SECCOMP_FIX
    if re.search(r"namespace|uid map|gid map|setting up|ermitted|ermission|No space", told):
        return NAMESPACE_FIX
    return BWRAP_FIX
