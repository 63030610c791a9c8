"""What the Triton kernels share: whether they can run here, on which tensors, and how they start.

Triton's interpreter (TRITON_INTERPRET=1 in the environment before this package is imported) runs
the same kernels on CPU tensors: slowly, for tests.
"""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)  # bfloat16 arithmetic; also the least that Triton itself supports
TILE = 1024  # numbers of a program that works on a flat range: 16 bytes a thread and load at 16 bit
MAX_WARPS = 16
_BY_HAND = tl.constexpr(INTERPRETED)


def why_unavailable() -> str | None:
    """What keeps the kernels from running on this machine's CUDA devices; None: nothing does."""
    if INTERPRETED:
        return "TRITON_INTERPRET is set, and the interpreter is for tests"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if torch.version.hip is not None:
        return "the kernels have not been tried on AMD devices"
    for index in range(torch.cuda.device_count()):
        if torch.cuda.get_device_capability(index) < MIN_CAPABILITY:
            return f"{torch.cuda.get_device_name(index)} is older than compute capability 8.0"
    try:
        # Builds Triton's launcher, or finds it in Triton's cache: it needs a C compiler.
        triton.runtime.driver.active.get_current_target()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"Triton does not start ({error})"
    return None


def serves(*tensors: torch.Tensor) -> bool:
    """Whether the kernels compute with such tensors: one dtype of `DTYPES`, on one device."""
    first = tensors[0]
    return first.dtype in DTYPES and all(
        t.dtype == first.dtype and t.device == first.device for t in tensors
    )


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, tile: int, **constants: Any) -> None:
    """Start `kernel` on the device of its first argument; an empty grid starts nothing.

    Args:
        grid: programs along each axis.
        tile: numbers a program works on at a time, which decide how many warps it gets.
    """
    if 0 in grid:
        return
    device = arguments[0].device
    # Triton launches on the current device, whatever the tensors are on.
    with nullcontext() if device.type == "cpu" else torch.cuda.device(device):
        kernel[tuple(grid)](*arguments, **compile_options(tile), **constants)


def compile_options(tile: int) -> dict[str, int | bool]:
    """How a kernel that works on `tile` numbers at a time is compiled."""
    warps = min(max(triton.next_power_of_2(tile) // 512, 4), MAX_WARPS)
    # No fused multiply-add: what is bit-equal to the reference has to round as it does, and the
    # others wait for memory anyway.
    return {"num_warps": warps, "enable_fp_fusion": False}


def rows_per_tile(columns: int) -> int:
    """Rows of `columns` numbers, a power of two, that one program takes together."""
    return max(1, TILE // columns)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """Float32 rounded to the nearest of `dtype`, ties to even."""
    if _BY_HAND and dtype == tl.bfloat16:
        # Triton's interpreter cuts the low bits off where the hardware rounds (3.9,
        # runtime/interpreter.py, _convert_float).
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(dtype)
