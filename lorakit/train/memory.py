"""How much memory training has taken so far."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lorakit.base.device_memory import free_bytes, total_bytes


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


@dataclass(frozen=True)
class Room:
    """Bytes of a device's memory.

    Attributes:
        free: that this process could allocate now; see `free_bytes`.
        total: all of it.
        held: by this process beyond its imports, whoever in it has asked for them: loaded weights,
            rows, tables of libraries, but a notebook's arrays or another model too.
    """

    free: int
    total: int
    held: int = 0

    def available(self, own: int) -> int:
        """What a run may take in all, of which `own` bytes at most are here by now: these are not
        free any more, and need not be allocated again. What else the process holds stays held."""
        return min(self.total, self.free + min(own, self.held))


def room_of(device: torch.device) -> Room:
    """How it stands now."""
    return Room(free_bytes(device), total_bytes(device), process_bytes(device))


def process_bytes(device: torch.device) -> int:
    """What this process holds by now of what `peak_bytes` counts, and `free_bytes` no longer does;
    on a GPU its tensors, on the CPU what has come since this module was imported."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return max(0, _own_bytes() - OWN_AFTER_IMPORTS)


def _peak_rss() -> int:
    if sys.platform == "linux":
        # Not getrusage: its peak survives exec, so a child would report its parent's.
        status = Path("/proc/self/status").read_text()
        kilobytes = status.partition("VmHWM:")[2].split(maxsplit=1)[0]
        return int(kilobytes) * 1024
    # macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
