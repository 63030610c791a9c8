"""Products of a mixture of experts: rows sorted by expert, each times its own expert's weight.

S rows, E experts, O out_features, I in_features. `counts` (E numbers, S together) says how many
consecutive rows belong to each expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from lorakit.kernels.reference.frozen_linear import compute_dtype


class PartlyDequantizable(Protocol):
    """The one thing `frozen_grouped_linear` asks of a stored weight: one expert's part of it."""

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor: ...


def grouped_linear(
    x_SI: torch.Tensor, weight_EOI: torch.Tensor, counts: Sequence[int]
) -> torch.Tensor:
    """`x @ W[e].T` for the rows of each expert e.

    Args:
        x_SI: sorted by expert.
        weight_EOI: may train; an expert without rows gets a gradient of zeros.
        counts: rows per expert.

    Returns:
        (S, O).
    """
    parts = zip(x_SI.split(list(counts)), weight_EOI.unbind(), strict=True)
    return torch.cat([nn.functional.linear(x, weight) for x, weight in parts])


def frozen_grouped_linear(
    x: torch.Tensor,
    weight: PartlyDequantizable,
    counts: Sequence[int],
    *,
    out_features: int,
    transposed: bool,
) -> torch.Tensor:
    """The products with frozen weights, computed in the dtype of `x` (under autocast: in
    autocast's).

    Experts without rows are not dequantized. Nothing but a reference to the stored weight is kept
    for the backward pass, which dequantizes each expert's part again.

    Args:
        x: (S, I), sorted by expert.
        weight: stored (E, O, I), or (E, I, O) when `transposed`; it receives no gradient.
        counts: rows per expert.
        out_features: O.

    Returns:
        (S, O) in the compute dtype.
    """
    return _FrozenGroupedLinear.apply(x, weight, counts, out_features, transposed)


class _FrozenGroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: PartlyDequantizable,
        counts: Sequence[int],
        out_features: int,
        transposed: bool,
    ) -> torch.Tensor:
        dtype = compute_dtype(x)
        ctx.weight, ctx.counts, ctx.transposed = weight, counts, transposed
        ctx.x_dtype, ctx.in_features = x.dtype, x.shape[1]
        x = x.to(dtype)
        y = x.new_empty(x.shape[0], out_features)
        for expert, rows in _groups(counts):
            dense = weight.dequantize_part(expert, dtype, x.device)
            torch.mm(x[rows], dense if transposed else dense.t(), out=y[rows])
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        grad_x = grad.new_empty(grad.shape[0], ctx.in_features)
        for expert, rows in _groups(ctx.counts):
            dense = ctx.weight.dequantize_part(expert, grad.dtype, grad.device)
            torch.mm(grad[rows], dense.t() if ctx.transposed else dense, out=grad_x[rows])
        return grad_x.to(ctx.x_dtype), None, None, None, None


def _groups(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) of the experts that have any."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(start, start + count)
        start += count
