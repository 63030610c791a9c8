"""Contests: measurements in processes of their own, by turns, and the tables made of them."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from page import command, machine, processor

RESULTS = Path(__file__).parent / "results"
PEERS = ("peft", "trl", "bitsandbytes", "accelerate")
MIB = 2**20


def did_the_task(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Do the task this process was started for and tell its result; False: there is none."""
    if sys.argv[1:2] != ["--one"]:
        return False
    print(json.dumps(answer(json.loads(sys.argv[2]))))
    return True


def contest_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with what a contest of models can be told: pairs and threads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="how often each one is measured")
    parser.add_argument("--threads", type=int, help="of the CPU; left out: each tool's choice")
    return parser


def at_least_one(text: str) -> int:
    """A number of warm-up steps: timing begins at the end of the first one."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("1 at least: the first step's end is where timing begins")
    return int(text)


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder given, made if need be, or one for this time."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def in_a_process(
    script: str,
    task: dict[str, Any],
    threads: int | None = None,
    *,
    all_cores_tokenize: bool = False,
) -> dict[str, Any]:
    """Run `script --one TASK` in a new interpreter; its last line of output is the result.

    Args:
        script: path of a script whose `main` begins with `did_the_task`.
        threads: of the CPU, for every library alike; None: each library's own choice.
        all_cores_tokenize: let tokenizers use threads of its own.
    """
    parallel = "true" if all_cores_tokenize else "false"
    environment = dict(os.environ, TOKENIZERS_PARALLELISM=parallel, HF_HUB_OFFLINE="1")
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, script, "--one", json.dumps(task)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def by_turns(
    contestants: Sequence[str], pairs: int, measure: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """A B C A B C ...: `pairs` measurements of each, told on stderr as they are made."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for pair in range(pairs):
        for name in contestants:
            started = time.perf_counter()
            results[name].append(measure(name))
            seconds = time.perf_counter() - started
            print(f"pair {pair + 1} of {pairs}: {name}, {seconds:.0f} s", file=sys.stderr)
    return results


def spread(values: Sequence[float], form: str) -> str:
    """Median, lowest and highest; one value stands alone."""
    median = f"{statistics.median(values):{form}}"
    return median if len(values) == 1 else f"{median} ({min(values):{form}} - {max(values):{form}})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each pair of measurements."""
    return [a / b for a, b in zip(above, below, strict=True)]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def step_seconds(ends: Sequence[float], warmup: int) -> list[float]:
    """Seconds from the end of one step to the end of the next, the first `warmup` steps apart."""
    return [end - before for before, end in itertools.pairwise(ends)][warmup - 1 :]


def results_file(theme: str) -> Path:
    """benchmarks/results/THEME_HARDWARE_YYYYMM.md; measurements lie beside it as JSON."""
    make = re.sub(r"\(\w+\)", "", processor()).lower().split()[:2]  # such as "Intel(R) Xeon(R) ..."
    hardware = f"{'-'.join(make)}-{os.cpu_count()}cpu"
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{theme}_{hardware}_{date.today():%Y%m}.md"


def without_places(task: dict[str, Any]) -> dict[str, Any]:
    """A task as it is recorded: where its files lay says nothing of the measurement."""
    return {
        name: value for name, value in task.items() if name not in ("model", "adapter", "folder")
    }


def conditions() -> str:
    """Command, machine and versions, in three sentences."""
    versions = ", ".join(f"{name} {version(name)}" for name in PEERS)
    return f"Written by `{command()}`. {machine()} Peers: {versions}."


class Memory:
    """Resident memory of this process: what it holds now, and the most since the last `forget`.

    The kernel's own high-water mark (VmHWM), which also sees what lives for an instant. Linux only.
    """

    def now(self) -> int:
        """Bytes."""
        return self._kilobytes("VmRSS") * 1024

    def peak(self) -> int:
        """Bytes; since the process began, or since `forget`."""
        return self._kilobytes("VmHWM") * 1024

    def forget(self) -> None:
        """Let the high-water mark start anew at what is held now."""
        Path("/proc/self/clear_refs").write_text("5")
        # Where the write does nothing, the peak of loading would pass for that of training.
        if self.peak() > self.now() + 64 * MIB:
            raise OSError(
                "this kernel does not reset VmHWM; run on Linux with /proc/self/clear_refs"
            )

    @staticmethod
    def _kilobytes(key: str) -> int:
        found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found is None:
            raise OSError(f"/proc/self/status has no {key}; memory is measured on Linux only")
        return int(found[1])
