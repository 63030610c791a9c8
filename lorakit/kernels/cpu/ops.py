"""The ops of `compiled.py` on tensors; what is not float32 on the CPU is the reference's to do."""

from __future__ import annotations

from functools import lru_cache

import torch

from lorakit.kernels.cpu import compiled
from lorakit.kernels.reference import dropout as reference_dropout
from lorakit.kernels.reference import elementwise as reference
from lorakit.kernels.reference import four_bit as reference_four_bit
from lorakit.kernels.reference.dynamic8 import dynamic_map

FLOAT_BYTES = 4


def four_bit_dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    code_book: str,
    shape: torch.Size,
    block_size: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the reference; the same bits."""
    if dtype != torch.float32:
        return reference_four_bit.four_bit_dequantize(
            codes, absmax, code_book, shape, block_size, dtype
        )
    out = torch.empty(shape, dtype=dtype)
    pairs = reference_four_bit.pair_table(code_book, codes.device)
    compiled.four_bit_dequantize(
        absmax.numel(),
        out.numel() * FLOAT_BYTES,
        codes.contiguous(),
        absmax.contiguous(),
        pairs,
        out,
        out.numel(),
        block_size,
    )
    return out


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """See the reference; the same bits."""
    out = torch.empty(codes.shape)
    compiled.dequantize_scales(
        nested_absmax.numel(),
        out.numel() * FLOAT_BYTES,
        codes.contiguous(),
        dynamic_map(codes.device),
        nested_absmax.contiguous(),
        nested_offset,
        out,
        out.numel(),
        reference_four_bit.NESTED_BLOCK_SIZE,
    )
    return out


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference."""
    if not _floats(x, weight):
        return reference.rms_norm(x, weight, eps)
    x = x.contiguous()
    y = torch.empty_like(x)
    inverse = x.new_empty(x.shape[:-1])
    size = x.shape[-1]
    compiled.rms_norm(
        inverse.numel(),
        2 * x.numel() * FLOAT_BYTES,
        x,
        weight.contiguous(),
        y,
        inverse,
        size,
        _number(eps),
    )
    return y, inverse


def rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """See the reference."""
    if not _floats(x, weight, grad):
        return reference.rms_norm_backward(x, weight, inverse, grad)
    x, grad = x.contiguous(), grad.contiguous()
    out = torch.empty_like(x)
    compiled.rms_norm_backward(
        inverse.numel(),
        3 * x.numel() * FLOAT_BYTES,
        x,
        weight.contiguous(),
        grad,
        inverse,
        out,
        x.shape[-1],
    )
    return out


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See the reference."""
    if not _floats(gate, up):
        return reference.silu_mul(gate, up)
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    compiled.silu_mul(
        -(-out.numel() // compiled.CHUNK), 3 * out.numel() * FLOAT_BYTES, gate, up, out, out.numel()
    )
    return out


def silu_mul_backward(
    gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference."""
    if not _floats(gate, up, grad):
        return reference.silu_mul_backward(gate, up, grad)
    gate, up, grad = gate.contiguous(), up.contiguous(), grad.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    compiled.silu_mul_backward(
        -(-gate.numel() // compiled.CHUNK),
        5 * gate.numel() * FLOAT_BYTES,
        gate,
        up,
        grad,
        grad_gate,
        grad_up,
        gate.numel(),
    )
    return grad_gate, grad_up


def column_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """See the reference."""
    if not _floats(a, b):
        return reference.column_dots(a, b)
    rows, columns = a.shape
    # One row of sums per thread; how many there are decides how the sum is rounded.
    parts = max(1, min(torch.get_num_threads(), rows))
    sums = a.new_empty(parts, columns)
    compiled.column_dots(
        parts, 2 * a.numel() * FLOAT_BYTES, a.contiguous(), b.contiguous(), sums, rows, columns
    )
    return sums.sum(0)


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """See the reference."""
    tokens, heads, size = x.shape
    if not _floats(x, cos, sin) or x.stride(2) != 1:
        return reference.rotary(x, cos, sin, backward=backward)
    out = x.new_empty(tokens, heads, size)
    compiled.rotary(
        tokens,
        2 * out.numel() * FLOAT_BYTES,
        x,
        cos.contiguous(),
        sin.contiguous(),
        out,
        heads,
        size,
        cos.shape[-1],
        x.stride(0),
        x.stride(1),
        int(backward),
    )
    return out


def keyed_dropout(x: torch.Tensor, row_keys: torch.Tensor, p: float) -> torch.Tensor:
    """See the reference; the same masks."""
    if not _floats(x):
        return reference_dropout.keyed_dropout(x, row_keys, p)
    x = x.contiguous()
    out = torch.empty_like(x)
    compiled.dropout(
        row_keys.numel(),
        2 * x.numel() * FLOAT_BYTES,
        x,
        row_keys.contiguous(),
        out,
        x.shape[-1],
        reference_dropout.threshold(p),
        _number(1 / (1 - p)),
    )
    return out


def _floats(*tensors: torch.Tensor) -> bool:
    return all(t.dtype == torch.float32 for t in tensors)


@lru_cache(maxsize=64)
def _number(value: float) -> torch.Tensor:
    """A number as a kernel reads it: arguments are integers and addresses."""
    return torch.tensor([value], dtype=torch.float32)
