"""Sums over tokens of a product of two tensors, without a tensor of products.

T tokens, D features.
"""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import elementwise as reference
from lorakit.kernels.triton.launching import launch, serves

COLUMNS = 128  # 256 bytes of 16-bit numbers: whole cache lines
ROWS = 16
PART_ROWS = 256  # rows of one program: fixed, so that the order of the sum is


def column_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """See the reference; products are not rounded to the dtype of `a` and `b`."""
    if not serves(a, b) or a.shape != b.shape or a.ndim != 2:
        return reference.column_dots(a, b)
    num_rows, size = a.shape
    parts = triton.cdiv(num_rows, PART_ROWS)
    sums = torch.empty(parts, size, dtype=torch.float32, device=a.device)
    launch(
        _sums,
        (triton.cdiv(size, COLUMNS), parts),
        *(a.contiguous(), b.contiguous(), sums, num_rows, size),
        tile=ROWS * COLUMNS,
        PART=PART_ROWS,
        R=ROWS,
        C=COLUMNS,
    )
    return sums.sum(0)


@triton.jit
def _sums(a, b, sums, num_rows, size, PART: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    column = tl.program_id(0) * C + tl.arange(0, C)
    part = tl.program_id(1).to(tl.int64)
    total = tl.zeros((R, C), tl.float32)
    for start in range(0, tl.minimum(PART, num_rows - part * PART), R):
        row = part * PART + start + tl.arange(0, R)
        at = row[:, None] * size + column[None, :]
        inside = (row < num_rows)[:, None] & (column < size)[None, :]
        x = tl.load(a + at, mask=inside, other=0).to(tl.float32)
        y = tl.load(b + at, mask=inside, other=0).to(tl.float32)
        total += x * y
    tl.store(sums + part * size + column, tl.sum(total, axis=0), mask=column < size)
