"""The ops without their arithmetic: results of the right shape and dtype, allocated and not filled.

For a rehearsal of a step on tensors that hold no data (see `plan/rehearsal.py`). Every backend
allocates the result of an op and next to nothing beside it, so this is what the op takes anywhere;
where rows are strided, contiguous copies of them too, and the result is contiguous.
"""

from __future__ import annotations

import torch


def four_bit_dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    code_book: str,
    shape: torch.Size,
    block_size: int,
    dtype: torch.dtype,
    nested: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """See the reference; with `nested` the block scales are there at the same time."""
    scales = absmax if nested is None else dequantize_scales(absmax, *nested)
    dense = torch.empty(shape, dtype=dtype, device=codes.device)
    del scales
    return dense


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """See the reference."""
    return torch.empty(codes.shape, dtype=torch.float32, device=codes.device)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference."""
    x = x.contiguous()
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=wide)


def rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """See the reference."""
    x, grad = x.contiguous(), grad.contiguous()
    return torch.empty_like(x)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See the reference."""
    gate, up = gate.contiguous(), up.contiguous()
    return torch.empty_like(gate)


def silu_mul_backward(
    gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference."""
    gate, up, grad = gate.contiguous(), up.contiguous(), grad.contiguous()
    return torch.empty_like(gate), torch.empty_like(up)


def column_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """See the reference."""
    return a.new_empty(a.shape[1], dtype=torch.promote_types(a.dtype, torch.float32))


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """See the reference."""
    return x.new_empty(x.shape)


def keyed_dropout(x: torch.Tensor, row_keys: torch.Tensor, p: float) -> torch.Tensor:
    """See the reference."""
    x = x.contiguous()
    return torch.empty_like(x)


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    needs_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See the reference."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    nll = logits.new_empty(len(logits), dtype=wide)
    return nll, torch.empty_like(logits) if needs_grad else None
