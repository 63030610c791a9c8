"""The ops of `compiled.py` on tensors.

Compiled code reads and writes where it is told to. So every op looks at types, places and sizes
first; what it does not serve, or what does not fit together, is the reference's to do or to refuse.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from lorakit.kernels import scratch
from lorakit.kernels.cpu import compiled
from lorakit.kernels.reference import dropout as reference_dropout
from lorakit.kernels.reference import elementwise as reference
from lorakit.kernels.reference import four_bit as reference_four_bit
from lorakit.kernels.reference.dynamic8 import dynamic_map

FLOAT_BYTES = 4
# Weights that are float32 at a time, where they are stored in another dtype: 4 MB.
_QUANTIZED_AT_ONCE = 1 << 20


def four_bit_quantize(
    weight: torch.Tensor, code_book: str, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the reference; the same bytes."""
    flat = weight.reshape(-1)
    num_full = flat.numel() // block_size * block_size
    served = weight.device.type == "cpu" and weight.is_floating_point() and block_size % 2 == 0
    if not served or not num_full:
        return reference_four_bit.four_bit_quantize(weight, code_book, block_size)
    cpu = flat.device
    codes = torch.empty((flat.numel() + 1) // 2, dtype=torch.uint8, device=cpu)
    absmax = torch.empty(-(-flat.numel() // block_size), dtype=torch.float32, device=cpu)
    midpoints, order = reference_four_bit.nearest(code_book, cpu)
    codes_in_order = order.int()
    # Each thread's block, normed, and the numbers of its codes.
    room = torch.get_num_threads(), block_size
    normed = torch.empty(room, dtype=torch.float32, device=cpu)
    numbers = torch.empty(room, dtype=torch.int32, device=cpu)
    step = max(1, _QUANTIZED_AT_ONCE // block_size) * block_size
    for start in range(0, num_full, step):
        # A view of every second column is one of the flat weights, but not contiguous.
        chunk = flat[start : min(start + step, num_full)].float().contiguous()
        compiled.four_bit_quantize(
            chunk.numel() // block_size,
            chunk.numel() * FLOAT_BYTES,
            chunk,
            midpoints,
            codes_in_order,
            _number(reference_four_bit.SMALLEST_SCALE),
            codes[start // 2 :],
            absmax[start // block_size :],
            block_size,
            normed,
            numbers,
        )
    if num_full < flat.numel():
        last = reference_four_bit.four_bit_quantize(flat[num_full:], code_book, block_size)
        codes[num_full // 2 :], absmax[-1:] = last
    if not absmax.isfinite().all():  # NaN and infinity have a code too, which the reference knows
        return reference_four_bit.four_bit_quantize(weight, code_book, block_size)
    return codes, absmax


def four_bit_dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    code_book: str,
    shape: torch.Size,
    block_size: int,
    dtype: torch.dtype,
    nested: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """See the reference; the same bits."""
    if nested is not None:
        absmax = dequantize_scales(absmax, *nested)
    num_weights = shape.numel()
    fits = codes.numel() == (num_weights + 1) // 2 and absmax.numel() == -(
        -num_weights // block_size
    )
    if dtype != torch.float32 or not (fits and _bytes(codes) and _floats(absmax)):
        return reference_four_bit.four_bit_dequantize(
            codes, absmax, code_book, shape, block_size, dtype
        )
    out = scratch.empty(shape, dtype, codes.device)
    table = reference_four_bit.code_values(code_book, codes.device).contiguous()
    compiled.four_bit_dequantize(
        absmax.numel(),
        out.numel() * FLOAT_BYTES,
        codes.contiguous(),
        absmax.contiguous(),
        table,
        out,
        out.numel(),
        block_size,
    )
    return out


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """See the reference; the same bits."""
    fits = nested_absmax.numel() == -(-codes.numel() // reference_four_bit.NESTED_BLOCK_SIZE)
    if not (fits and _bytes(codes) and _floats(nested_absmax, nested_offset)):
        return reference_four_bit.dequantize_scales(codes, nested_absmax, nested_offset)
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
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
    if not _floats(x, weight) or weight.shape != x.shape[-1:]:
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
    fits = weight.shape == x.shape[-1:] and inverse.shape == x.shape[:-1] and grad.shape == x.shape
    if not (fits and _floats(x, weight, inverse, grad)):
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
    if not _floats(gate, up) or gate.shape != up.shape:
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
    if not _floats(gate, up, grad) or not gate.shape == up.shape == grad.shape:
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
    if not _floats(a, b) or a.shape != b.shape:
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
    fits = cos.shape == sin.shape and len(cos) == tokens and cos.shape[1] <= size
    if not (fits and _floats(x, cos, sin)) or cos.shape[1] % 2 or x.stride(2) != 1:
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
    if not _floats(x) or x.shape[:-1] != row_keys.shape or row_keys.dtype != torch.int64:
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
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def _bytes(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.uint8 and tensor.device.type == "cpu"


@lru_cache(maxsize=64)
def _number(value: float) -> torch.Tensor:
    """A number as a kernel reads it: arguments are integers and addresses."""
    return torch.tensor([value], dtype=torch.float32, device="cpu")
