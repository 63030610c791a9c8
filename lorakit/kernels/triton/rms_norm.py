"""RMSNorm and its backward: each row is read once and stays in registers.

T rows, D features.
"""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import elementwise as reference
from lorakit.kernels.triton.launching import launch, narrow, rows_per_tile, serves

MAX_FEATURES = 1 << 14  # of a row that one program holds without spilling registers


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference."""
    if not serves(x, weight) or weight.shape != x.shape[-1:] or not 0 < len(weight) <= MAX_FEATURES:
        return reference.rms_norm(x, weight, eps)
    x = x.contiguous()
    y = torch.empty_like(x)
    inverse = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    _launch(_forward, inverse.numel(), len(weight), x, weight.contiguous(), y, inverse, eps=eps)
    return y, inverse


def rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """See the reference."""
    fits = weight.shape == x.shape[-1:] and inverse.shape == x.shape[:-1] and grad.shape == x.shape
    of_norm = inverse.dtype == torch.float32 and inverse.device == x.device
    if not (serves(x, weight, grad) and fits and of_norm and 0 < len(weight) <= MAX_FEATURES):
        return reference.rms_norm_backward(x, weight, inverse, grad)
    x, inverse, grad = x.contiguous(), inverse.contiguous(), grad.contiguous()
    out = torch.empty_like(x)
    _launch(_backward, inverse.numel(), len(weight), x, weight.contiguous(), inverse, grad, out)
    return out


def _launch(kernel, num_rows: int, size: int, *tensors: torch.Tensor, **numbers: float) -> None:
    columns = triton.next_power_of_2(size)
    rows = rows_per_tile(columns)
    launch(
        kernel,
        (triton.cdiv(num_rows, rows),),
        *tensors,
        num_rows=num_rows,
        size=size,
        **numbers,
        tile=rows * columns,
        ROWS=rows,
        COLUMNS=columns,
    )


@triton.jit
def _forward(x, weight, y, inverse, num_rows, size, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    at = row[:, None] * size + column[None, :]
    inside = (row < num_rows)[:, None] & (column < size)[None, :]
    wide = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    w = tl.load(weight + column, mask=column < size, other=0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, axis=1) / size + eps)
    tl.store(inverse + row, factor, mask=row < num_rows)
    dtype = y.dtype.element_ty
    normed = narrow(wide * factor[:, None], dtype).to(tl.float32)
    tl.store(y + at, narrow(w[None, :] * normed, dtype), mask=inside)


@triton.jit
def _backward(
    x, weight, inverse, grad, out, num_rows, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    at = row[:, None] * size + column[None, :]
    inside = (row < num_rows)[:, None] & (column < size)[None, :]
    wide = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    w = tl.load(weight + column, mask=column < size, other=0).to(tl.float32)
    scaled = tl.load(grad + at, mask=inside, other=0).to(tl.float32) * w[None, :]
    factor = tl.load(inverse + row, mask=row < num_rows, other=0)
    shift = tl.sum(scaled * wide, axis=1) / size * factor * factor
    dx = (scaled - wide * shift[:, None]) * factor[:, None]
    tl.store(out + at, narrow(dx, out.dtype.element_ty), mask=inside)
