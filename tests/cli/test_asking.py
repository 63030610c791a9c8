"""A Ctrl-C that comes between two of Python's looks for signals, at the worst moment there is."""

from __future__ import annotations

import subprocess
import sys

# What select asks the input for its number is C's own raise(SIGINT), which gives 0: the signal is
# caught when no line of Python runs any more before the call that waits.
ASKING = """
import ctypes, functools, signal, sys
from rich.console import Console
from lorakit.cli.asking import ask_line

class Terminal:
    fileno = staticmethod(functools.partial(ctypes.CDLL(None)["raise"], int(signal.SIGINT)))

# Ignored by what a shell without job control starts in the background, such as this test run.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.stdin = Terminal()
try:
    ask_line(Console(stderr=True), "name> ")
except KeyboardInterrupt:
    print("answered")
"""


def test_ctrl_c_right_before_the_wait_is_answered() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ASKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        assert process.wait(timeout=60) == 0  # the pipe stays open, and nothing comes
        assert process.stdout.read() == "answered\n"
    finally:
        process.kill()
        process.communicate()
