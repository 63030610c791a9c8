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
    nested: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """See the reference; the same bits, in one launch with nested scales too."""
    count = shape.numel()
    num_blocks = triton.cdiv(count, block_size)
    fits = codes.numel() == triton.cdiv(count, 2) and absmax.numel() == num_blocks
    of_scales = _scales_fit(absmax, nested)
    of_codes = codes.dtype == torch.uint8 and codes.device == absmax.device
    # A byte's two weights share a block, and a tile starts with a block or lies in one.
    even = block_size > 1 and triton.next_power_of_2(block_size) == block_size
    if not (fits and of_scales and of_codes and even and dtype.is_floating_point):
        return reference.four_bit_dequantize(
            codes, absmax, code_book, shape, block_size, dtype, nested
        )
    out = torch.empty(shape, dtype=dtype, device=codes.device)
    values = reference.code_values(code_book, codes.device)
    bytes_of_block = min(block_size // 2, TILE)
    launch(
        _dequantize,
        (triton.cdiv(codes.numel(), TILE),),
        *(codes.contiguous(), absmax.contiguous(), *_nested(nested, codes.device), values, out),
        *(codes.numel(), count, num_blocks),
        tile=2 * TILE,
        BLOCK=block_size,
        NESTED=reference.NESTED_BLOCK_SIZE,
        BLOCKS=TILE // bytes_of_block,
        BYTES=bytes_of_block,
    )
    return out


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """See the reference; the same bits."""
    nested = nested_absmax, nested_offset
    if not _scales_fit(codes, nested):
        return reference.dequantize_scales(codes, nested_absmax, nested_offset)
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    launch(
        _scales,
        (triton.cdiv(out.numel(), TILE),),
        *(codes.contiguous(), *_nested(nested, codes.device), out, out.numel()),
        tile=TILE,
        NESTED=reference.NESTED_BLOCK_SIZE,
        SIZE=TILE,
    )
    return out


def _scales_fit(absmax: torch.Tensor, nested: tuple[torch.Tensor, torch.Tensor] | None) -> bool:
    """Whether these are float32 scales, or as many codes of scales as `nested` says."""
    if nested is None:
        return absmax.dtype == torch.float32
    num_nested = triton.cdiv(absmax.numel(), reference.NESTED_BLOCK_SIZE)
    floats = all(t.dtype == torch.float32 and t.device == absmax.device for t in nested)
    sizes = nested[0].numel() == num_nested and nested[1].numel() == 1
    return absmax.dtype == torch.uint8 and floats and sizes


def _nested(
    nested: tuple[torch.Tensor, torch.Tensor] | None, device: torch.device
) -> tuple[torch.Tensor | None, ...]:
    """The values of the codes of scales, and what they are multiplied with and added to."""
    if nested is None:
        return None, None, None
    return dynamic_map(device), nested[0].contiguous(), nested[1]


@triton.jit
def _dequantize(
    codes,
    absmax,
    scale_values,
    nested_absmax,
    nested_offset,
    values,
    out,
    num_bytes,
    count,
    num_blocks,
    BLOCK: tl.constexpr,
    NESTED: tl.constexpr,
    BLOCKS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """A tile of (BLOCKS, BYTES): a whole number of blocks, or a part of one."""
    first = tl.program_id(0).to(tl.int64) * BLOCKS * BYTES
    block = 2 * first // BLOCK + tl.arange(0, BLOCKS)
    there = block < num_blocks
    scale = tl.load(absmax + block, mask=there, other=0)
    if nested_absmax is not None:
        scale = _scale(scale, block, there, scale_values, nested_absmax, nested_offset, NESTED)
    place = tl.arange(0, BLOCKS)[:, None] * BYTES + tl.arange(0, BYTES)[None, :]
    inside = first + place < num_bytes
    packed = tl.load(codes + first + place, mask=inside, other=0).to(tl.int32)
    # 16 values are one cache line, which each lookup of a warp finds in the first-level cache.
    high = tl.load(values + (packed >> 4)) * scale[:, None]
    low = tl.load(values + (packed & 15)) * scale[:, None]
    weight = tl.arange(0, BLOCKS)[:, None] * 2 * BYTES + tl.arange(0, 2 * BYTES)[None, :]
    both = narrow(tl.interleave(high, low), out.dtype.element_ty)
    tl.store(out + 2 * first + weight, both, mask=2 * first + weight < count)


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
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < count
    code = tl.load(codes + at, mask=inside, other=0)
    scale = _scale(code, at, inside, values, nested_absmax, nested_offset, NESTED)
    tl.store(out + at, scale, mask=inside)


@triton.jit
def _scale(code, at, inside, values, nested_absmax, nested_offset, NESTED: tl.constexpr):
    """`values[code] * nested_absmax + nested_offset`, each rounded: see `launch`."""
    nested = tl.load(nested_absmax + at // NESTED, mask=inside, other=0)
    return tl.load(values + code.to(tl.int32)) * nested + tl.load(nested_offset)
