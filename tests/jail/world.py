"""What the tests of the jail share."""

from __future__ import annotations

import os
from pathlib import Path

from lorakit.jail.contained import Limits

# No other process has this number, or the next, among its arguments: what is left of a jail is
# found by it.
MEMORY_BYTES = (256 << 20) + 2 * os.getpid()
PATIENT = Limits(seconds=60.0, cpu_seconds=20, memory_bytes=MEMORY_BYTES)
STRICT = Limits(seconds=3.0, cpu_seconds=1, memory_bytes=MEMORY_BYTES, output_bytes=1 << 20)


def processes_inside(memory_bytes: int) -> list[int]:
    """Processes of jails with that limit, bwrap's own included; those that have ended are none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(memory_bytes).encode() in command:
            found.append(int(folder.name))
    return found
