"""Rotary position embedding: a token's cos and sin are read once for a group of its heads.

T tokens, D features of a head, R of them turned.
"""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import elementwise as reference
from lorakit.kernels.triton.launching import launch, narrow, rows_per_tile, serves


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """See the reference."""
    tokens, heads, size = x.shape
    fits = cos.shape == sin.shape and len(cos) == tokens and cos.shape[1] <= size
    of_x = serves(x) and serves(cos, sin) and cos.device == x.device
    if not (fits and of_x) or cos.shape[1] % 2 or cos.shape[1] == 0:
        return reference.rotary(x, cos, sin, backward=backward)
    if x.stride(2) != 1:
        x = x.contiguous()
    out = x.new_empty(tokens, heads, size)
    half = cos.shape[1] // 2
    columns = triton.next_power_of_2(max(half, size - 2 * half))
    rows = min(rows_per_tile(columns), triton.next_power_of_2(heads))
    launch(
        _turn,
        (tokens, triton.cdiv(heads, rows)),
        *(x, cos.contiguous(), sin.contiguous(), out, heads, size, half, x.stride(0), x.stride(1)),
        tile=2 * rows * columns,
        BACKWARD=backward,
        KEEPS=size > 2 * half,
        ROWS=rows,
        COLUMNS=columns,
    )
    return out


@triton.jit
def _turn(
    x,
    cos,
    sin,
    out,
    heads,
    size,
    half,
    token_stride,
    head_stride,
    BACKWARD: tl.constexpr,
    KEEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    there = column < half
    inside = (head < heads)[:, None] & there[None, :]
    at = token * token_stride + head[:, None] * head_stride + column[None, :]
    to = (token * heads + head[:, None]) * size + column[None, :]
    dtype = out.dtype.element_ty
    x1 = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    x2 = tl.load(x + at + half, mask=inside, other=0).to(tl.float32)
    turn = token * 2 * half + column
    cos1, cos2 = _both(cos + turn, half, there, dtype)
    sin1, sin2 = _both(sin + turn, half, there, dtype)
    if BACKWARD:
        y1, y2 = x1 * cos1 + x2 * sin2, x2 * cos2 - x1 * sin1
    else:
        y1, y2 = x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2
    tl.store(out + to, narrow(y1, dtype), mask=inside)
    tl.store(out + to + half, narrow(y2, dtype), mask=inside)
    if KEEPS:
        kept = (head < heads)[:, None] & (column < size - 2 * half)[None, :]
        tl.store(out + to + 2 * half, tl.load(x + at + 2 * half, mask=kept), mask=kept)


@triton.jit
def _both(at, half, there, dtype: tl.constexpr):
    """The two halves of a row, in the precision of `dtype`: float32 (1, COLUMNS) each."""
    first = narrow(tl.load(at, mask=there, other=0).to(tl.float32), dtype)
    second = narrow(tl.load(at + half, mask=there, other=0).to(tl.float32), dtype)
    return first.to(tl.float32)[None, :], second.to(tl.float32)[None, :]
