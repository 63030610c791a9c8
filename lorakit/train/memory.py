"""How much memory training has taken so far."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


def _own_bytes() -> int:
    """Resident memory of this process that no file stands behind. Pages of files (libraries, mapped
    weights) count as free in `free_bytes`, since the system can read them again."""
    facts = psutil.Process().memory_info()
    return facts.rss - (facts.shared if sys.platform == "linux" else 0)


# Read once, when this module is imported: after torch and transformers, before any model is loaded.
RSS_AFTER_IMPORTS = psutil.Process().memory_info().rss
OWN_AFTER_IMPORTS = _own_bytes()


def peak_bytes(device: torch.device) -> int:
    """The highest since the start, or since `forget_peak`: CUDA's peak allocated; on the CPU peak
    RSS minus RSS after imports."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return max(0, _peak_rss() - RSS_AFTER_IMPORTS)


def forget_peak(device: torch.device) -> None:
    """Let the peak begin anew, from what is held now; where the system cannot, it stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):  # a container may forbid it
            Path("/proc/self/clear_refs").write_text("5")


def free_bytes(device: torch.device) -> int:
    """What could still be allocated now: on the device, or in the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


@dataclass(frozen=True)
class Room:
    """Bytes of a device's memory.

    Attributes:
        free: that anybody could allocate now.
        total: all of it.
        held: by this process beyond its imports, whoever in it has asked for them: loaded weights,
            rows, tables of libraries, but a notebook's arrays or another model too.
        cached: kept by this process's allocator for whatever it allocates next.
    """

    free: int
    total: int
    held: int = 0
    cached: int = 0

    def available(self, own: int) -> int:
        """What a run may take in all, of which `own` bytes at most are here by now: these are not
        free any more, and need not be allocated again. What else the process holds stays held."""
        return min(self.total, self.free + self.cached + min(own, self.held))


def room_of(device: torch.device) -> Room:
    """How it stands now."""
    held, cached = process_bytes(device), 0
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - held
    return Room(free_bytes(device), total_bytes(device), held, cached)


def process_bytes(device: torch.device) -> int:
    """What this process holds by now of what `peak_bytes` counts, and `free_bytes` no longer does;
    on a GPU its tensors, on the CPU what has come since this module was imported."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return max(0, _own_bytes() - OWN_AFTER_IMPORTS)


def total_bytes(device: torch.device) -> int:
    """All of the memory that the device, or the machine, has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return psutil.virtual_memory().total


def _peak_rss() -> int:
    if sys.platform == "linux":
        # Not getrusage: its peak survives exec, so a child would report its parent's.
        status = Path("/proc/self/status").read_text()
        kilobytes = status.partition("VmHWM:")[2].split(maxsplit=1)[0]
        return int(kilobytes) * 1024
    # macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
