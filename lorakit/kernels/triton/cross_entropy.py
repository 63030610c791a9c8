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
from lorakit.kernels.triton.launching import launch, narrow, serves

MAX_TILE = 4096  # logits of a row that a program holds at a time


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
    tile = min(triton.next_power_of_2(size), MAX_TILE)
    launch(
        _rows,
        (num_rows,),
        *(logits, targets.contiguous(), None if weights is None else weights.contiguous()),
        *(nll, grad, size),
        tile=tile,
        SIZE=tile,
    )
    return nll, grad


@triton.jit
def _rows(logits, targets, weights, nll, grad, size, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * size
    target = tl.load(targets + row)
    # Running maximum and sum of exponentials. It starts finite: a tile of -inf alone leaves 0.
    largest = tl.full((), -3.4e38, tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, size, SIZE):
        at = start + tl.arange(0, SIZE)
        z = tl.load(logits + at, mask=at < size, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(z, axis=0))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(z - larger), axis=0)
        largest = larger
    known = (target >= 0) & (target < size)
    of_target = tl.load(logits + target, mask=known, other=float("nan")).to(tl.float32)
    tl.store(nll + row, (largest - of_target) + tl.log(total))
    if grad is not None:
        weight = 1.0
        if weights is not None:
            weight = tl.load(weights + row).to(tl.float32)
        for start in range(0, size, SIZE):
            at = start + tl.arange(0, SIZE)
            z = tl.load(logits + at, mask=at < size, other=float("-inf")).to(tl.float32)
            slope = (tl.exp(z - largest) / total - tl.where(at == target, 1.0, 0.0)) * weight
            there = grad + row * size + at
            tl.store(there, narrow(slope, grad.dtype.element_ty), mask=at < size)
