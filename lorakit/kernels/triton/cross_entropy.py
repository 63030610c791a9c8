"""Cross-entropy of a chunk of logits and its gradient: logits are read twice, the gradient is
written once, and nothing of their size is made in float32.

C rows, V vocabulary.
"""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import cross_entropy as reference
from lorakit.kernels.triton.launching import launch, narrow, rows_per_tile, serves

MAX_TILE = 4096  # logits that a program holds at a time: of one row, or of several short ones


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    needs_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See the reference; a target outside the vocabulary gives NaN."""
    fits = logits.ndim == 2 and targets.shape == logits.shape[:1] and logits.shape[-1] > 0
    of_logits = targets.dtype == torch.int64 and targets.device == logits.device
    weighted = weights is None or (
        weights.shape == targets.shape
        and weights.is_floating_point()
        and weights.device == logits.device
    )
    if not (serves(logits) and fits and of_logits and weighted):
        return reference.cross_entropy(logits, targets, weights, needs_grad=needs_grad)
    logits = logits.contiguous()
    num_rows, size = logits.shape
    nll = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    grad = torch.empty_like(logits) if needs_grad else None
    columns = min(triton.next_power_of_2(size), MAX_TILE)
    rows = rows_per_tile(columns)
    launch(
        _rows,
        (triton.cdiv(num_rows, rows),),
        *(logits, targets.contiguous(), None if weights is None else weights.contiguous()),
        *(nll, grad, num_rows, size),
        tile=rows * columns,
        ROWS=rows,
        COLUMNS=columns,
    )
    return nll, grad


@triton.jit
def _rows(
    logits,
    targets,
    weights,
    nll,
    grad,
    num_rows,
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < num_rows
    first = row * size
    # Running maximum and sum of exponentials. It starts finite: a tile of -inf alone leaves 0.
    largest = tl.full((ROWS,), -3.4e38, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, size, COLUMNS):
        z = _tile(logits, first, start, there, size, COLUMNS)
        larger = tl.maximum(largest, tl.max(z, axis=1))
        total = total * tl.exp(largest - larger)
        total += tl.sum(tl.exp(z - larger[:, None]), axis=1)
        largest = larger
    target = tl.load(targets + row, mask=there, other=0)
    known = there & (target >= 0) & (target < size)
    of_target = tl.load(logits + first + target, mask=known, other=float("nan")).to(tl.float32)
    tl.store(nll + row, (largest - of_target) + tl.log(total), mask=there)
    if grad is not None:
        weight = tl.full((ROWS,), 1.0, tl.float32)
        if weights is not None:
            weight = tl.load(weights + row, mask=there, other=0).to(tl.float32)
        share = 1 / total
        for start in range(0, size, COLUMNS):
            z = _tile(logits, first, start, there, size, COLUMNS)
            column = (start + tl.arange(0, COLUMNS))[None, :]
            softmax = tl.exp(z - largest[:, None]) * share[:, None]
            slope = softmax - tl.where(column == target[:, None], 1.0, 0.0)
            tl.store(
                grad + first[:, None] + column,
                narrow(slope * weight[:, None], grad.dtype.element_ty),
                mask=there[:, None] & (column < size),
            )


@triton.jit
def _tile(logits, first, start, there, size, COLUMNS: tl.constexpr):
    """Some columns of the rows, float32 (ROWS, COLUMNS); -inf beyond the last."""
    column = (start + tl.arange(0, COLUMNS))[None, :]
    inside = there[:, None] & (column < size)
    at = logits + first[:, None] + column
    return tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
