"""How many processors this process may use: those it may run on, as far as its quota pays for them.

A container often sees all processors of its machine and may use the time of two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def available_processors(*, own: Path = OWN, cgroups: Path = CGROUPS) -> int:
    """At least 1.

    Args:
        own: lines `number:controllers:path`, the groups that this process is in.
        cgroups: where groups are mounted, version 1 or 2.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *map(math.ceil, _quotas(own, cgroups))]))


def _quotas(own: Path, cgroups: Path) -> Iterator[float]:
    """Processors' worth of time, of each group that limits it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no /proc: nobody says that there is a limit
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = cgroups / controllers if controllers else cgroups
        inside = PurePosixPath(path).relative_to("/")
        # A group is limited by those above it too. In a container the path may lead nowhere.
        for group in (inside, *inside.parents):
            yield from _quota(mounted / group, is_v1=bool(controllers))


def _quota(group: Path, *, is_v1: bool) -> Iterator[float]:
    try:
        if is_v1:
            words = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        else:
            words = (group / "cpu.max").read_text().split()
        quota, period = (int(word) for word in words)
    except (OSError, ValueError):  # no such group, or "max"
        return
    if quota > 0 and period > 0:
        yield quota / period
