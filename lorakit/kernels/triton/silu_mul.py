"""`silu(gate) * up` and its backward: one pass over memory each."""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import elementwise as reference
from lorakit.kernels.triton.launching import TILE, launch, narrow, serves


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See the reference."""
    if not serves(gate, up) or gate.shape != up.shape:
        return reference.silu_mul(gate, up)
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    grid = (triton.cdiv(out.numel(), TILE),)
    launch(_forward, grid, gate, up, out, out.numel(), tile=TILE, SIZE=TILE)
    return out


def silu_mul_backward(
    gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference."""
    if not serves(gate, up, grad) or not gate.shape == up.shape == grad.shape:
        return reference.silu_mul_backward(gate, up, grad)
    gate, up, grad = gate.contiguous(), up.contiguous(), grad.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    grid = (triton.cdiv(gate.numel(), TILE),)
    launch(
        _backward,
        grid,
        *(gate, up, grad, grad_gate, grad_up, gate.numel()),
        tile=TILE,
        SIZE=TILE,
    )
    return grad_gate, grad_up


@triton.jit
def _forward(gate, up, out, count, SIZE: tl.constexpr):
    # int64: a layer's activations may have more than 2**31 numbers.
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0).to(tl.float32)
    dtype = out.dtype.element_ty
    silu = narrow(g / (1 + tl.exp(-g)), dtype).to(tl.float32)  # rounded between, as the reference
    tl.store(out + at, narrow(silu * u, dtype), mask=inside)


@triton.jit
def _backward(gate, up, grad, grad_gate, grad_up, count, SIZE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0).to(tl.float32)
    dy = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
    sigmoid = 1 / (1 + tl.exp(-g))
    silu = g * sigmoid
    dtype = grad_gate.dtype.element_ty
    slope = sigmoid + silu * (1 - sigmoid)
    tl.store(grad_gate + at, narrow(dy * u * slope, dtype), mask=inside)
    tl.store(grad_up + at, narrow(dy * silu, dtype), mask=inside)
