"""Keyed dropout: the mask is made in registers, where it is used."""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import dropout as reference
from lorakit.kernels.triton.launching import TILE, launch, narrow, rows_per_tile, serves

_GOLDEN = tl.constexpr(reference.GOLDEN)
_MULTIPLIER_1, _MULTIPLIER_2 = (tl.constexpr(m) for m in reference.MULTIPLIERS)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (tl.constexpr(s) for s in reference.SHIFTS)


def keyed_dropout(x: torch.Tensor, row_keys: torch.Tensor, p: float) -> torch.Tensor:
    """See the reference; the same bits."""
    of_x = row_keys.dtype == torch.int64 and row_keys.device == x.device
    fits = x.ndim == 2 and x.shape[:1] == row_keys.shape and 0 <= p < 1
    if not (serves(x) and of_x and fits):
        return reference.keyed_dropout(x, row_keys, p)
    x = x.contiguous()
    out = torch.empty_like(x)
    num_rows, size = x.shape
    pairs = min(triton.next_power_of_2(max(1, triton.cdiv(size, 2))), TILE // 2)
    rows = rows_per_tile(2 * pairs)
    launch(
        _drop,
        (triton.cdiv(num_rows, rows), triton.cdiv(size, 2 * pairs)),
        *(x, row_keys.contiguous(), out, num_rows, size, reference.threshold(p), 1 / (1 - p)),
        tile=rows * 2 * pairs,
        ROWS=rows,
        PAIRS=pairs,
    )
    return out


@triton.jit(do_not_specialize=["threshold"])
def _drop(
    x, row_keys, out, num_rows, size, threshold, scale, ROWS: tl.constexpr, PAIRS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * PAIRS
    key = tl.load(row_keys + row, mask=row < num_rows, other=0).to(tl.uint64, bitcast=True)
    counter = (first + 1 + tl.arange(0, PAIRS)).to(tl.uint64)
    bits = _finalize(key[:, None] + (counter * _GOLDEN)[None, :])
    # Feature 2k reads the low and feature 2k + 1 the high half.
    uniform = tl.interleave(bits & 0xFFFFFFFF, bits >> 32)
    column = 2 * first + tl.arange(0, 2 * PAIRS)
    at = row[:, None] * size + column[None, :]
    inside = (row < num_rows)[:, None] & (column < size)[None, :]
    dtype = out.dtype.element_ty
    kept = narrow(tl.zeros((1, 1), tl.float32) + scale, dtype).to(tl.float32)
    # A product, not a choice: what is not finite stays so, as in the reference.
    factor = tl.where(uniform.to(tl.int64) >= threshold, kept, 0.0)
    y = tl.load(x + at, mask=inside, other=0).to(tl.float32) * factor
    tl.store(out + at, narrow(y, dtype), mask=inside)


@triton.jit
def _finalize(bits):
    bits = (bits ^ (bits >> _SHIFT_1)) * _MULTIPLIER_1
    bits = (bits ^ (bits >> _SHIFT_2)) * _MULTIPLIER_2
    return bits ^ (bits >> _SHIFT_3)
