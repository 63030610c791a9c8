"""What a run in the jail of code rewards costs, beside a bare start of the same Python.

python benchmarks/jail.py [--rounds 40] [--completions 64]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable

from page import command, machine, write_section

from lorakit import tasks
from lorakit.jail.jail import open_jail
from lorakit.jail.parts import PYTHON_OPTIONS
from lorakit.jail.python_files import python_files
from lorakit.tasks import ScoringOptions

HEADING = "The jail of code rewards"
CODE = "def f(n):\n    return n * 3"
CALLS = [[n] for n in range(10)]
REFERENCE = json.dumps({"function": "f", "cases": [[[n], 3 * n] for n in range(10)]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--completions", type=int, default=64)
    given = parser.parse_args()
    jail = open_jail()
    bare = [str(python_files().executable), *PYTHON_OPTIONS, "-c", "print(input())"]
    ways: dict[str, Callable[[], object]] = {
        "open the jail, walls tried": open_jail,
        "bare Python, a program": lambda: subprocess.run(bare, input=b"x", capture_output=True),
        "jail, a program": lambda: jail.run("print(input())", "x"),
        "jail, a function called ten times": lambda: jail.call(CODE, "f", CALLS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):  # in turns, so that all meet the same machine
        for name, run in ways.items():
            seconds[name].append(timed(run))
    answers, references = [CODE] * given.completions, [REFERENCE] * given.completions
    scorer = tasks.scorer("code")
    step = [timed(lambda: scorer.scores(answers, references, ScoringOptions())) for _ in range(5)]
    bare_cpu, jailed_cpu = (
        processor_ms(ways[name], given.rounds)
        for name in ("bare Python, a program", "jail, a program")
    )
    lines = ["| what | least, ms | median, ms |", "|---|---|---|"]
    lines += [
        f"| {name} | {1000 * min(found):.1f} | {1000 * statistics.median(found):.1f} |"
        for name, found in seconds.items()
    ]
    text = "\n".join(
        [
            f"`{command()}`",
            "",
            *lines,
            "",
            f"{given.completions} completions with ten cases each by the scorer `code`, "
            f"{len(os.sched_getaffinity(0))} at a time: {min(step):.2f} s at best, "
            f"{statistics.median(step):.2f} s in the median, "
            f"{given.completions / statistics.median(step):.0f} completions/s.",
            "",
            f"Processor time of a program: {bare_cpu:.1f} ms in bare Python, {jailed_cpu:.1f} ms "
            f"in the jail. Load average at the end: {os.getloadavg()[0]:.1f}. {machine()}",
        ]
    )
    print(text)
    write_section(HEADING, text)


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def processor_ms(run: Callable[[], object], rounds: int) -> float:
    """Mean processor time of what was started, which another program's load does not change."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = used()
    for _ in range(rounds):
        run()
    return 1000 * (used() - before) / rounds


if __name__ == "__main__":
    main()
