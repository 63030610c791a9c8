"""How many processors this process may use: those it may run on, as far as its quota pays for them.

A container often sees all processors of its machine and may use the time of two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from lorakit.jail.cgroups import Cgroups


def available_processors(*, cgroups: Cgroups | None = None) -> int:
    """At least 1.

    Args:
        cgroups: that limit this process; None: as the system tells.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *map(math.ceil, _quotas(cgroups or Cgroups()))]))


def _quotas(cgroups: Cgroups) -> Iterator[float]:
    """Processors' worth of time, of each group that limits it."""
    for group, is_v1 in cgroups.of("cpu"):
        try:
            if is_v1:
                words = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            else:
                words = (group / "cpu.max").read_text().split()
            quota, period = (int(word) for word in words)
        except (OSError, ValueError):  # no such group, or "max"
            continue
        if quota > 0 and period > 0:
            yield quota / period
