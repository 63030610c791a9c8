"""Memory of a CPU's large tensors can go back to the system as soon as they go (glibc).

glibc keeps the blocks that large tensors leave, and reuses them badly: PyTorch asks for aligned
memory (posix_memalign), for which glibc wants 96 bytes more than it then uses, so the hole that a
tensor leaves does not take the next one of the same size. A step of 325 MiB of tensors was resident
in 432 to 496 MiB. With a fixed size from which blocks come from the system (mallopt(3),
M_MMAP_THRESHOLD) what is resident is what lives, but for holes of smaller blocks (`plan/heap.py`);
the price is a page fault for every 4 KiB, some 20 % more processor time (docs/log.md).
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys

_MMAP_THRESHOLD = -3  # malloc.h: M_MMAP_THRESHOLD
LARGE_BYTES = 1 << 20
# Whoever sets it has chosen.
VARIABLE = "MALLOC_MMAP_THRESHOLD_"

log = logging.getLogger(__name__)


def give_large_tensors_back() -> None:
    """Fix the size for the rest of the process, where the C library is glibc."""
    if sys.platform == "linux" and VARIABLE not in os.environ:
        library = ctypes.CDLL(None)
        is_glibc = hasattr(library, "gnu_get_libc_version")
        if is_glibc and library.mallopt(_MMAP_THRESHOLD, LARGE_BYTES) == 1:
            return
    log.warning("train.compact_heap has no effect here: it is for glibc, and %s unset", VARIABLE)


def trim_heap() -> None:
    """Give the system what a part of the run has left behind, garbage too; the next part would have
    it on top of its own."""
    gc.collect()
    give_free_pages_back()


def give_free_pages_back() -> None:
    """Those that hold nothing (malloc_trim(3)), wherever they are in the heap: what comes next
    wants blocks of other sizes, and would not use them."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):  # musl has none
            library.malloc_trim(0)
