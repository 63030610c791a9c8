"""A line that somebody types, and a Ctrl-C that is answered whenever it comes."""

from __future__ import annotations

import os
import select
import signal
import sys

from rich.console import Console


def ask_line(out: Console, prompt: str) -> str:
    """What is typed after a prompt, without its line break.

    Python looks for signals before `input` begins to read, and the system call is broken off by one
    that comes later. One that comes in between, while the prompt is on the screen already, would
    not be seen before Enter. So nothing is read before a whole line or a signal is there, and that
    is waited for in one call which sees both: the signal's number is in a pipe from the moment it
    was caught.

    Args:
        out: of a terminal, which gives whole lines.

    Raises:
        EOFError: the input ended.
        KeyboardInterrupt: Ctrl-C.
        UnicodeDecodeError: what was typed is no text.
    """
    out.print(prompt, end="")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as `set_wakeup_fd` wants it
    before = signal.set_wakeup_fd(writing)
    try:
        select.select([sys.stdin, reading], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
    return out.input()
