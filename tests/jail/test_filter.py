"""The filter of system calls, by a small machine that runs such programs."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from lorakit.errors import InputError
from lorakit.jail import seccomp
from lorakit.jail.seccomp import ALLOW, AUDIT_MACHINES, KILL, REFUSE, filter_program
from lorakit.jail.syscalls import ALLOWED, ALLOWED_WITH, MACHINES

# What each machine must refuse: fork, vfork, clone, clone3, ptrace, socket, unshare, mount,
# process_vm_readv, bpf, keyctl, userfaultfd, perf_event_open, io_uring_setup, memfd_create, pipe2,
# flock, kill, setns, prctl, seccomp, shmget, mkdirat, fchmodat, pidfd_open
REFUSED = {
    "x86_64": (
        *(57, 58, 56, 435, 101, 41, 272, 165, 310, 321, 250, 323, 298, 425, 319, 293, 73),
        *(62, 308, 157, 317, 29, 258, 268, 434),
    ),
    "aarch64": (
        *(220, 435, 117, 198, 97, 40, 270, 280, 219, 282, 241, 425, 279, 59, 32),
        *(129, 268, 167, 277, 194, 34, 53, 434),
    ),
}
# TIOCSTI, TIOCLINUX, FIONBIO; F_SETLK, F_SETOWN, F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
REFUSED_WITH = {"ioctl": (0x5412, 0x541C, 0x5421), "fcntl": (6, 8, 1024, 1026, 1031)}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def decision(program: bytes, machine: int, number: int, second: int = 0) -> int:
    """What the kernel would do: the return value for a call."""
    data = struct.pack("=IIQ6Q", number, machine, 0, 0, second, 0, 0, 0, 0)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, constant = instructions[at]
        at += 1
        if code == seccomp.RETURN:
            return int(constant)
        if code == seccomp.LOAD:
            loaded = struct.unpack_from("=I", data, constant)[0]
        else:
            holds = {
                seccomp.JUMP_EQUAL: loaded == constant,
                seccomp.JUMP_AT_LEAST: loaded >= constant,
            }
            at += if_true if holds[code] else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_table_names_is_allowed_and_nothing_else(machine: str) -> None:
    column, program = MACHINES.index(machine), filter_program(machine)
    allowed = {numbers[column] for numbers in ALLOWED.values()} - {None}
    with_values = {numbers[column]: values for numbers, values in ALLOWED_WITH.values()}
    for number in range(1200):
        wanted = ALLOW if number in allowed else REFUSE
        for second in (0, 1, 9, 0x5401, 0x5412, 1030, 1033, 1 << 32):
            if number in with_values:
                wanted = ALLOW if second & 0xFFFFFFFF in with_values[number] else REFUSE
            assert decision(program, AUDIT_MACHINES[machine], number, second) == wanted
    for number in REFUSED[machine]:
        assert decision(program, AUDIT_MACHINES[machine], number) == REFUSE
    for name, seconds in REFUSED_WITH.items():
        number = ALLOWED_WITH[name][0][column]
        assert number is not None
        for second in seconds:
            assert decision(program, AUDIT_MACHINES[machine], number, second) == REFUSE
    for foreign in (0x40000003, *AUDIT_MACHINES.values()):
        if foreign != AUDIT_MACHINES[machine]:
            assert decision(program, foreign, 0) == KILL
    assert decision(program, AUDIT_MACHINES[machine], 0x40000000) == KILL
    assert decision(program, AUDIT_MACHINES[machine], 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].is_file():
        pytest.skip("the kernel's headers are not installed")
    defined = dict(
        re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text("utf-8"))
    )
    defined.setdefault("newfstatat", defined.get("fstatat", ""))
    tables = ALLOWED | {name: numbers for name, (numbers, _) in ALLOWED_WITH.items()}
    for name, numbers in tables.items():
        number = numbers[MACHINES.index(machine)]
        assert defined.get(name) == (None if number is None else str(number)), name


def test_a_machine_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="for x86_64 and aarch64, this machine is 'riscv64'"):
        filter_program("riscv64")
