"""Run compiled code on the threads PyTorch computes with.

numba's own pools would compete with PyTorch's: after each parallel region a pool's threads wait
actively for the next, on the cores the other one needs. PyTorch's OpenMP library has one entry
point for "run this on all threads", GOMP_parallel, which libgomp, libomp and libiomp export alike.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

# Bytes each thread should have to work on at least, or waking it costs more than it does.
BYTES_PER_THREAD = 16384


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that PyTorch is linked to; None: there is none that can be asked."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        # A symbol is looked up in the library and in those it depends on.
        library = ctypes.CDLL(str(path))
        if hasattr(library, "GOMP_parallel") and hasattr(library, "omp_get_thread_num"):
            library.GOMP_parallel.argtypes = [
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_uint,
                ctypes.c_uint,
            ]
            library.GOMP_parallel.restype = None
            return library
    return None


def available() -> bool:
    """Whether compiled code can run on PyTorch's threads."""
    return _openmp() is not None


def thread_number_address() -> int:
    """Address of the C function that tells a thread its number in the team, from 0."""
    library = _openmp()
    assert library is not None
    address = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p).value
    assert address is not None
    return address


def run(
    address: Callable[[], int], work: int, num_bytes: int, *arguments: torch.Tensor | int
) -> None:
    """Run a compiled kernel (see `compiled.py`) over `work` items, shared out among the threads.

    Args:
        address: gives the kernel's address; called once the library is known.
        work: how many items there are; 0 runs nothing.
        num_bytes: read and written in all: few of them take fewer threads.
        arguments: contiguous tensors on the CPU (as their data's address) and integers.
    """
    if work == 0:
        return
    library = _openmp()
    assert library is not None
    threads = max(1, min(torch.get_num_threads(), work, num_bytes // BYTES_PER_THREAD))
    values = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    packed = (ctypes.c_int64 * (2 + len(values)))(threads, work, *values)
    library.GOMP_parallel(address(), packed, threads, 0)
