"""Rotary position embedding as one autograd function, for queries and keys as the projections leave
them: token by token, no transposed copy."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` (T, heads, D), turned by cos, sin (T, R) in Llama's layout; nothing but those is kept."""
    return _Rotary.apply(x, cos, sin)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return dispatch.rotary(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return dispatch.rotary(grad, cos, sin, backward=True), None, None
