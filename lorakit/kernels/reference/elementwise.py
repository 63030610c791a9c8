"""The element-wise ops of a transformer layer, and their backward passes, in plain PyTorch.

T tokens, D features.
"""

from __future__ import annotations

import torch
from torch import nn


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x / sqrt(mean(x**2) + eps) * weight` (arXiv 1910.07467), the norm in float32 or wider.

    Args:
        x: (..., D).
        weight: (D,).

    Returns:
        y (..., D) in the dtype of `x`, and 1 / sqrt(mean(x**2) + eps) (...), which the backward
        needs.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = torch.rsqrt(wide.square().mean(-1) + eps)
    return weight * (wide * inverse[..., None]).to(x.dtype), inverse


def rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """The gradient of `x` (..., D), from that of `rms_norm`'s result; the weight is frozen."""
    wide = x.to(inverse.dtype)
    scaled = grad.to(inverse.dtype) * weight.to(inverse.dtype)
    shift = (scaled * wide).mean(-1, keepdim=True) * inverse[..., None].square()
    return ((scaled - wide * shift) * inverse[..., None]).to(x.dtype)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, the hidden activation of a SwiGLU MLP (arXiv 2002.05202); any shape."""
    return nn.functional.silu(gate) * up


def silu_mul_backward(
    gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `gate` and `up`, from that of `silu_mul`'s result."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    sigmoid = torch.sigmoid(gate.to(wide))
    silu = gate.to(wide) * sigmoid
    grad_gate = grad.to(wide) * up.to(wide) * (sigmoid + silu * (1 - sigmoid))
    return grad_gate.to(gate.dtype), (grad.to(wide) * silu).to(up.dtype)


def column_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`(a * b).sum(0)` of two (T, D), accumulated in float32 or wider: (D,)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a * b).sum(0, dtype=wide)


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """Rotary position embedding (arXiv 2104.09864) of the first R features of every head, in
    Llama's layout: feature i turns with feature i + R / 2.

    Args:
        x: (T, heads, D); with `backward` the gradient of the result.
        cos, sin: (T, R), R <= D, of each token's position.

    Returns:
        (T, heads, D); with `backward` the gradient of `x`.
    """
    half = cos.shape[-1] // 2
    turned, kept = x[..., : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    x1, x2 = turned[..., :half], turned[..., half:]
    if backward:
        y1 = x1 * cos[..., :half] + x2 * sin[..., half:]
        y2 = x2 * cos[..., half:] - x1 * sin[..., :half]
    else:
        y1 = x1 * cos[..., :half] - x2 * sin[..., :half]
        y2 = x2 * cos[..., half:] + x1 * sin[..., half:]
    return torch.cat([y1, y2, kept], dim=-1)
