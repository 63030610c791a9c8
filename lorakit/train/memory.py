"""How much memory training has taken so far."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
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


def held_bytes(device: torch.device) -> int:
    """What this process holds by now of what `peak_bytes` counts, and `free_bytes` no longer does:
    weights that were loaded, rows, tables of libraries. A run that goes on here, or begins when
    this process has ended, has it beside what is free."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
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
