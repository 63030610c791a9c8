"""Four-bit weights to dense ones: the bits are the reference's.

N weights, B blocks.
"""

# Triton gives kernels their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorakit.kernels.reference import four_bit as reference
from lorakit.kernels.reference.dynamic8 import dynamic_map
from lorakit.kernels.triton.launching import TILE, launch, narrow


def four_bit_dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    code_book: str,
    shape: torch.Size,
    block_size: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the reference; the same bits."""
    count = shape.numel()
    fits = codes.numel() == triton.cdiv(count, 2) and absmax.numel() == triton.cdiv(
        count, block_size
    )
    of_codes = codes.dtype == torch.uint8 and _floats(codes.device, absmax)
    # A byte's two weights share a block, and a tile starts with a block or lies in one.
    even = block_size > 1 and triton.next_power_of_2(block_size) == block_size
    if not (fits and of_codes and even and dtype.is_floating_point):
        return reference.four_bit_dequantize(codes, absmax, code_book, shape, block_size, dtype)
    out = torch.empty(shape, dtype=dtype, device=codes.device)
    launch(
        _dequantize,
        (triton.cdiv(count, 2 * TILE),),
        *(codes.contiguous(), absmax.contiguous()),
        reference.code_values(code_book, codes.device),
        *(out, codes.numel(), count),
        tile=2 * TILE,
        BLOCK=block_size,
        BYTES=TILE,
    )
    return out


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """See the reference; the same bits."""
    fits = nested_absmax.numel() == triton.cdiv(codes.numel(), reference.NESTED_BLOCK_SIZE)
    of_codes = codes.dtype == torch.uint8 and _floats(codes.device, nested_absmax, nested_offset)
    if not (fits and of_codes and nested_offset.numel() == 1):
        return reference.dequantize_scales(codes, nested_absmax, nested_offset)
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    launch(
        _scales,
        (triton.cdiv(out.numel(), TILE),),
        *(codes.contiguous(), dynamic_map(codes.device), nested_absmax.contiguous()),
        *(nested_offset, out, out.numel()),
        tile=TILE,
        NESTED=reference.NESTED_BLOCK_SIZE,
        SIZE=TILE,
    )
    return out


def _floats(device: torch.device, *tensors: torch.Tensor) -> bool:
    return all(t.dtype == torch.float32 and t.device == device for t in tensors)


@triton.jit
def _dequantize(
    codes, scales, values, out, num_bytes, count, BLOCK: tl.constexpr, BYTES: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * BYTES
    byte = tl.arange(0, BYTES)
    there = first + byte < num_bytes
    packed = tl.load(codes + first + byte, mask=there, other=0).to(tl.int32)
    block = 2 * first // BLOCK + 2 * byte // BLOCK
    scale = tl.load(scales + block, mask=there, other=0)
    # 16 values are one cache line, which each lookup of a warp finds in the first-level cache.
    high = tl.load(values + (packed >> 4)) * scale
    low = tl.load(values + (packed & 15)) * scale
    at = 2 * first + tl.arange(0, 2 * BYTES)
    both = narrow(tl.interleave(high, low), out.dtype.element_ty)
    tl.store(out + at, both, mask=at < count)


@triton.jit
def _scales(
    codes,
    values,
    nested_absmax,
    nested_offset,
    out,
    count,
    NESTED: tl.constexpr,
    SIZE: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * SIZE
    place = tl.arange(0, SIZE)
    inside = first + place < count
    code = tl.load(codes + first + place, mask=inside, other=0).to(tl.int32)
    nested = tl.load(nested_absmax + first // NESTED + place // NESTED, mask=inside, other=0)
    scaled = tl.load(values + code) * nested
    tl.store(out + first + place, scaled + tl.load(nested_offset), mask=inside)
