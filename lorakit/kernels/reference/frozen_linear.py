"""`x @ W.T + bias` for a weight that never trains and may be stored packed.

O out_features, I in_features.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from lorakit.kernels.reference.autocast import autocasts


class Dequantizable(Protocol):
    """The one thing this op asks of a stored weight."""

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor: ...


def frozen_linear(
    x: torch.Tensor, weight: Dequantizable, bias: torch.Tensor | None
) -> torch.Tensor:
    """The product with a frozen weight, computed in the dtype of `x` (under autocast: in
    autocast's).

    Nothing but a reference to the stored weight is kept for the backward pass: neither the dense
    weight, which is dequantized again, nor `x`, which only the weight's gradient would need.

    Args:
        x: (..., I), floating point.
        weight: a stored (O, I) weight; it receives no gradient.
        bias: (O,) or None; it may train.

    Returns:
        (..., O) in the compute dtype.
    """
    if not torch.is_grad_enabled():  # an autograd function takes longer than a product of few rows
        return _product(x, weight, bias)
    return _FrozenLinear.apply(x, bias, weight)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype a product with `x` is computed in: that of `x`, or autocast's."""
    if autocasts(x):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _product(x: torch.Tensor, weight: Dequantizable, bias: torch.Tensor | None) -> torch.Tensor:
    dtype = compute_dtype(x)
    dense_OI = weight.dequantize(dtype, x.device)
    return nn.functional.linear(x.to(dtype), dense_OI, None if bias is None else bias.to(dtype))


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, weight: Dequantizable
    ) -> torch.Tensor:
        ctx.weight = weight
        ctx.x_dtype = x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needs_x, needs_bias, _ = ctx.needs_input_grad
        grad_x = grad_bias = None
        if needs_x:
            grad_x = (grad @ ctx.weight.dequantize(grad.dtype, grad.device)).to(ctx.x_dtype)
        if needs_bias:
            # Half-precision sums over tokens lose the small terms: accumulate in float32.
            wide = torch.promote_types(grad.dtype, torch.float32)
            summed = grad.reshape(-1, grad.shape[-1]).sum(0, dtype=wide)
            grad_bias = summed.to(ctx.bias_dtype)
        return grad_x, grad_bias, None
