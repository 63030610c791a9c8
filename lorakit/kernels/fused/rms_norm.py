"""RMSNorm with a frozen weight as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch


def frozen_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, keep_output: bool = False
) -> torch.Tensor:
    """`x / sqrt(mean(x**2) + eps) * weight`: (..., D) -> (..., D); `weight` (D,) gets no gradient.

    Kept for the backward pass: x or the output, and one number per row.

    Args:
        keep_output: not x, which is made again as `y / weight` times that number. The layers that
            read the output keep it anyway. For weights without a zero only.
    """
    return _RMSNorm.apply(x, weight, eps, keep_output)


def may_keep_output(weight: torch.Tensor) -> bool:
    """Whether `keep_output` is for this weight; the host waits for the answer.

    A weight without data is taken to have no zero: those of trained norms have none.
    """
    if weight.is_meta:
        return True
    return bool(weight.abs().min() >= torch.finfo(weight.dtype).eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, keep_output: bool
    ) -> torch.Tensor:
        y, inverse = dispatch.rms_norm(x, weight, eps)
        ctx.keep_output = keep_output
        ctx.save_for_backward(y if keep_output else x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, weight, inverse = ctx.saved_tensors
        x = kept
        if ctx.keep_output:
            wide = kept.to(inverse.dtype) / weight
            x = wide.div_(inverse[..., None]).to(kept.dtype)
        return dispatch.rms_norm_backward(x, weight, inverse, grad), None, None, None
