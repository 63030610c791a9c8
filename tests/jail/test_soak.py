"""Thousands of runs, three in ten of them hostile, leave nothing behind and grow nothing."""

from __future__ import annotations

import os
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lorakit.jail.contained import Limits
from lorakit.jail.jail import open_jail
from tests.jail import attempts
from tests.jail.conftest import descriptors
from tests.jail.test_escapes import SOURCE, given, outside  # noqa: F401 - a fixture
from tests.jail.world import MEMORY_BYTES, processes_inside

RUNS, AT_A_TIME, HOSTILE = int(os.environ.get("LORAKIT_SOAK_RUNS", "2000")), 2, 0.3
# Those that sleep until they are ended, one in thirty, take all of it.
LIMITS = Limits(seconds=5.0, cpu_seconds=1, memory_bytes=MEMORY_BYTES, output_bytes=1 << 20)
DRIFT = 0.05
SEED = 7


def mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def cgroups() -> int:
    """Below those that this process is in: others come and go with what else the machine does."""
    mounted, count = Path("/sys/fs/cgroup"), 0
    unified = mounted / "unified"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = mounted / controllers.removeprefix("name=")
        if not controllers and unified.is_dir():  # versions 1 and 2 side by side
            root = unified
        count += sum(1 for _ in (root / path.removeprefix("/")).rglob("cgroup.procs"))
    return count


@pytest.mark.slow
def test_nothing_is_left(outside: dict[str, object], tmp_path: Path) -> None:  # noqa: F811
    jail = open_jail(LIMITS)
    hostile = [*attempts.HELD, *attempts.ENDED]
    generator = random.Random(SEED)
    plans = [
        generator.choice(hostile) if generator.random() < HOSTILE else None for _ in range(RUNS)
    ]
    clean_seconds: list[float] = []

    def run(name: str | None) -> None:
        started = time.monotonic()
        if name is not None:
            outcome = jail.run(SOURCE, given([name], outside))
            assert "escaped" not in (outcome.value or "")
            return
        outcomes = jail.call("def f(n): return n * 3", "f", [[n] for n in range(5)])
        assert [one.value for one in outcomes] == [0, 3, 6, 9, 12], outcomes
        clean_seconds.append(time.monotonic() - started)

    process, before, resident = psutil.Process(), (0, 0, set[str](), set[str]()), 0
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        for start in range(0, RUNS, RUNS // 10):
            list(threads.map(run, plans[start : start + RUNS // 10]))
            if start == 0:
                resident = process.memory_info().rss
                before = (mounts(), cgroups(), set(os.listdir("/tmp")), descriptors())
    assert not processes_inside(MEMORY_BYTES)
    assert (mounts(), cgroups()) == before[:2]
    left = set(os.listdir("/tmp")) - before[2]
    assert not {name for name in left if "bwrap" in name or "jail" in name}
    assert descriptors() <= before[3]
    assert process.memory_info().rss < resident * (1 + DRIFT)
    median = statistics.median(clean_seconds)
    print(f"{len(clean_seconds)} clean runs, median {1000 * median:.1f} ms, {AT_A_TIME} at a time")
