"""What a command took, as the system counts it: of the command and all processes it waited for.

On Linux a program begins with the peak of the process that started it, through fork and exec. So a
command is started by a process of next to nothing: this file, run as a script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Python's own, before it has imported anything: what is below it cannot be told from it.
LEAST_BYTES = 24 << 20


@dataclass(frozen=True)
class Took:
    """A command that has ended.

    Attributes:
        code: its exit code.
        seconds: by the clock.
        cpu_seconds: of all its threads and processes, in programs and in the system.
        peak_bytes: resident at most, of the largest of its processes.
    """

    code: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(
    command: Sequence[str], *, output: Path, errors: Path, environment: Mapping[str, str]
) -> Took:
    """Run a command and count what it takes.

    Args:
        output, errors: files that take what it prints.
    """
    task = [list(command), str(output), str(errors)]
    starter = [sys.executable, "-S", __file__, json.dumps(task)]
    done = subprocess.run(starter, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    took = Took(**json.loads(done.stdout))
    if took.peak_bytes <= LEAST_BYTES:
        raise OSError(f"{command[0]} took no more memory than Python; its peak is not known")
    return took


def main() -> None:
    """Run the command that was handed over; print what it took."""
    command, output, errors = json.loads(sys.argv[1])
    began = time.monotonic()
    with Path(output).open("wb") as out, Path(errors).open("wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    # Linux counts in KiB, macOS in bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(
        json.dumps(
            {
                "code": child.returncode,
                "seconds": time.monotonic() - began,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_bytes": peak,
            }
        )
    )


if __name__ == "__main__" and len(sys.argv) > 1:
    main()
