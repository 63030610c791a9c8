"""How much memory there is: of a GPU, or of the machine as far as this process may use it.

A container often sees all memory of its machine, and is killed when it takes more than its own
limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lorakit.jail.cgroups import Cgroups


@dataclass(frozen=True)
class HostMemory:
    """Bytes of the machine's memory.

    Attributes:
        total: that this process could have at most.
        available: that it could allocate now. Pages of files count as such: the system can read
            them again.
    """

    total: int
    available: int


def host_memory(*, cgroups: Cgroups | None = None) -> HostMemory:
    """That of the machine, or of the tightest limit that this process lives in.

    Args:
        cgroups: that may limit it; None: as the system tells.
    """
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _limits(cgroups or Cgroups()):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return HostMemory(total, available)


def free_bytes(device: torch.device, *, cgroups: Cgroups | None = None) -> int:
    """What this process could still allocate on a device: what nobody has, and of a GPU what its
    own allocator keeps for whatever it allocates next; see `host_memory`."""
    if device.type != "cuda":
        return host_memory(cgroups=cgroups).available
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def total_bytes(device: torch.device, *, cgroups: Cgroups | None = None) -> int:
    """All of the memory that the device has, or that this process may have of the machine's; see
    `host_memory`."""
    if device.type != "cuda":
        return host_memory(cgroups=cgroups).total
    return int(torch.cuda.get_device_properties(device).total_memory)


def _limits(cgroups: Cgroups) -> Iterator[tuple[int, int]]:
    """(limit, bytes used of it that cannot be given back) of each group that has one."""
    for group, is_v1 in cgroups.of("memory"):
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if is_v1
            else ("memory.max", "memory.current")
        )
        try:
            numbers = [int((group / name).read_text()) for name in (limit, used)]
            pages = _file_pages(group / "memory.stat", prefix="total_" if is_v1 else "")
        except (OSError, ValueError):  # no such group, or "max"
            continue
        yield numbers[0], max(0, numbers[1] - pages)


def _file_pages(stat: Path, *, prefix: str) -> int:
    """Bytes of cached files, which are used until somebody needs the room."""
    words = (line.split() for line in stat.read_text().splitlines())
    counts = {name: int(count) for name, count in words}
    return sum(counts.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))
