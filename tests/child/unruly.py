"""What the child of the tests does: everything that somebody else's code may do."""

import ctypes
import math
import os
import subprocess
import sys
import time


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError


def start(*arguments: str):
    if arguments == ("fails",):
        raise ImportError("no module of that name")
    if arguments == ("hangs",):
        time.sleep(600)
    if arguments == ("prints",):
        print("hello" * 100_000)
    return answer


def answer(request):
    do, given = request
    return globals()[do](given)


def same(given):
    return given


def nan(given):
    return [math.nan, math.inf]


def not_json(given):
    return {1, 2}


def raises(given):
    raise KeyError("score")


def unspeakable(given):
    raise UnspeakableError


def leaves(given):
    sys.exit(3)


def hangs(given):
    while True:
        pass


def holds_the_interpreter(given):
    return 9 ** (9 ** (9**9))


def ends(given):
    print("last words", file=sys.stderr, flush=True)
    os._exit(7)


def crashes(given):
    ctypes.string_at(0)


def grows(given):
    kept = [bytearray(64 << 20) for _ in range(10_000)]
    return len(kept)


def floods(given):
    return "x" * (9 << 20)


def prints(given):
    for _ in range(200):
        print("y" * 100_000)
        print("z" * 100_000, file=sys.stderr)
    os.system("echo also from a program it starts")
    return "done"


def prints_for_ever(given):
    while True:
        print("y" * 100_000)


def reads(given):
    return sys.stdin.read()


def lingers(given):
    """Starts a program that outlives it, and dies."""
    left = subprocess.Popen(["sleep", "600"])
    with open(given, "w") as file:
        file.write(str(left.pid))
    os._exit(0)
