"""Rotary position embedding in one pass. A program takes rows of (token, head), so that few heads
of many tokens fill it as well as many heads of few.

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
    rows = rows_per_tile(columns)
    launch(
        _turn,
        (triton.cdiv(tokens * heads, rows),),
        *(x, cos.contiguous(), sin.contiguous(), out, tokens * heads, heads, size, half),
        *x.stride()[:2],
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
    num_rows,
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
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    token, head = row // heads, row % heads
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < num_rows) & (column < half)
    at = x + token * token_stride + head * head_stride + column
    to = out + row * size + column
    x1 = tl.load(at, mask=inside, other=0).to(tl.float32)
    x2 = tl.load(at + half, mask=inside, other=0).to(tl.float32)
    turn = token * 2 * half + column
    dtype = out.dtype.element_ty
    cos1, cos2 = _both(cos + turn, half, inside, dtype)
    sin1, sin2 = _both(sin + turn, half, inside, dtype)
    if BACKWARD:
        y1, y2 = x1 * cos1 + x2 * sin2, x2 * cos2 - x1 * sin1
    else:
        y1, y2 = x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2
    tl.store(to, narrow(y1, dtype), mask=inside)
    tl.store(to + half, narrow(y2, dtype), mask=inside)
    if KEEPS:
        kept = (row < num_rows) & (column < size - 2 * half)
        tl.store(to + 2 * half, tl.load(at + 2 * half, mask=kept), mask=kept)


@triton.jit
def _both(at, half, inside, dtype: tl.constexpr):
    """The two halves of each row's cos or sin, in the precision of `dtype`, as float32."""
    first = narrow(tl.load(at, mask=inside, other=0).to(tl.float32), dtype)
    second = narrow(tl.load(at + half, mask=inside, other=0).to(tl.float32), dtype)
    return first.to(tl.float32), second.to(tl.float32)
