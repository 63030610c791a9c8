"""Memory on the CPU that large dense weights are written into one after another.

The C library maps memory of 32 MB and more anew for every tensor, and its first use costs more
than unpacking a weight into it: a page fault for each 4 KB.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Smaller ones are served from memory that the process has (glibc's largest mmap threshold).
SMALLEST_BYTES = 32 << 20


class _Scratch(threading.local):
    wanted = False
    memory: torch.Tensor | None = None


_scratch = _Scratch()


@contextmanager
def short_lived() -> Iterator[None]:
    """Inside, a dequantized weight may lie where the one before it lay, in this thread.

    For callers that are done with one before they ask for the next.
    """
    before, _scratch.wanted = _scratch.wanted, True
    try:
        yield
    finally:
        _scratch.wanted = before


def empty(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As `torch.empty`; inside `short_lived` large ones on the CPU are the thread's own memory,
    which grows to the largest one asked for and stays."""
    num_bytes = shape.numel() * dtype.itemsize
    if not _scratch.wanted or device.type != "cpu" or num_bytes < SMALLEST_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    if _scratch.memory is None or _scratch.memory.numel() < num_bytes:
        _scratch.memory = None  # before the larger one is made
        _scratch.memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    return _scratch.memory[:num_bytes].view(dtype).view(shape)


def is_scratch(tensor: torch.Tensor) -> bool:
    """Whether it lies in this thread's memory, so that it may be written into."""
    memory = _scratch.memory
    return memory is not None and memory.data_ptr() == tensor.data_ptr()
