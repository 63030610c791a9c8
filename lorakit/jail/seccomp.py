"""The filter of system calls, as the classic BPF program that the kernel and bubblewrap take.

Our own forty lines instead of libseccomp: no package to install, no library to keep in step with
the kernel, and a list of what is allowed needs neither its versions nor its rules. What the list
does not name fails with EPERM, so that honest code sees an ordinary OSError.
"""

from __future__ import annotations

import struct

from lorakit.errors import InputError
from lorakit.jail.syscalls import ALLOWED, ALLOWED_WITH, MACHINES

# linux/bpf_common.h, linux/seccomp.h, linux/audit.h; offsets in struct seccomp_data
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_AT, MACHINE_AT, SECOND_ARGUMENT_AT = 0, 4, 24
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # REFUSE: errno 1, EPERM
AUDIT_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_CALLS = 0x40000000  # where x86_64 has a second set of numbers

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def filter_program(machine: str) -> bytes:
    """The filter for a machine, as `platform.machine()` names it.

    Raises:
        InputError: the machine is not known.
    """
    if machine not in MACHINES:
        raise InputError(
            f"the jail of code rewards has a list of system calls for {' and '.join(MACHINES)}, "
            f"this machine is {machine!r}. Run on one of those, or remove the reward `code`."
        )
    program: list[Instruction] = [
        (LOAD, 0, 0, MACHINE_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_MACHINES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_AT_LEAST, 0, 1, X32_CALLS),
        (RETURN, 0, 0, KILL),
    ]
    column = MACHINES.index(machine)
    for numbers in ALLOWED.values():
        if (number := numbers[column]) is not None:
            program += _when_equal(number, [(RETURN, 0, 0, ALLOW)])
    for numbers, values in ALLOWED_WITH.values():
        if (number := numbers[column]) is not None:
            program += _when_equal(number, _allow_second_argument(values))
    program.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _when_equal(value: int, then: list[Instruction]) -> list[Instruction]:
    return [(JUMP_EQUAL, 0, len(then), value), *then]


def _allow_second_argument(values: tuple[int, ...]) -> list[Instruction]:
    """The kernel takes these arguments as 32 bits, so the lower half is all that counts."""
    checks = [one for value in values for one in _when_equal(value, [(RETURN, 0, 0, ALLOW)])]
    return [(LOAD, 0, 0, SECOND_ARGUMENT_AT), *checks, (RETURN, 0, 0, REFUSE)]
