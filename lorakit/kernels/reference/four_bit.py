"""Four-bit codes with one scale per block, in plain PyTorch: NF4 (arXiv 2305.14314) has its code
values at normal quantiles, FP4 at the values of a 4-bit float (sign, two exponent bits, one of
mantissa).

The bytes are bitsandbytes': codes of neighbouring weights share a byte, the first in the high
nibble; double quantization stores the scales as 8-bit codes of a dynamic map (arXiv 1511.04561)
around their mean. All arithmetic is float32, whatever the dtype of the weight; the formulas follow
the order of operations of bitsandbytes' CPU backend, because equal bytes need equal roundings.

N weights, B = ceil(N / block_size) blocks.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from lorakit.kernels.reference.dynamic8 import dynamic_map

# {storage: the values of codes 0 to 15, times a constant that does not matter}.
CODE_VALUES = {
    # Quantiles of a standard normal, scaled to [-1, 1], with an exact zero (QLoRA, appendix E).
    "nf4": (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
    # bitsandbytes' own order of 4-bit floats; code 8 is a second zero.
    "fp4": (0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3),
}
NESTED_BLOCK_SIZE = 256  # block scales that share one scale of their own
SMALLEST_SCALE = 1e-38  # keeps 1 / absmax finite for blocks of zeros
DYNAMIC_GRID = 65535.0  # steps from -1 to 1 in bitsandbytes' table of nearest dynamic codes
# Weights per step, a multiple of any block: bounds the temporaries to 6 MB on a CPU, at no cost in
# speed; a GPU needs more to do at a time.
CHUNK_WEIGHTS = {"cpu": 1 << 18}
CHUNK_WEIGHTS_ELSEWHERE = 1 << 24


def four_bit_quantize(
    weight: torch.Tensor, code_book: str, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize in blocks of the row-major flattened weight; the last block may be shorter.

    Args:
        weight: any shape, floating point, N elements.
        code_book: "nf4" or "fp4".
        block_size: weights per scale.

    Returns:
        codes uint8 (ceil(N / 2),) and absmax float32 (B,).
    """
    flat = weight.reshape(-1)
    num_weights = flat.numel()
    num_blocks = -(-num_weights // block_size)
    codes = torch.empty((num_weights + 1) // 2, dtype=torch.uint8, device=weight.device)
    absmax = torch.empty(num_blocks, dtype=torch.float32, device=weight.device)
    step = CHUNK_WEIGHTS.get(weight.device.type, CHUNK_WEIGHTS_ELSEWHERE)
    for start in range(0, num_weights, step):
        chunk = flat[start : start + step].float()
        chunk_codes, chunk_absmax = _quantize_chunk(chunk, code_book, block_size)
        codes[start // 2 : start // 2 + chunk_codes.numel()] = chunk_codes
        first = start // block_size
        absmax[first : first + chunk_absmax.numel()] = chunk_absmax
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
    """The dense weight: float32 code times float32 scale, then rounded once to `dtype`.

    Args:
        codes: uint8 (ceil(N / 2),).
        absmax: float32 (B,); with `nested` the uint8 codes of the scales.
        code_book: "nf4" or "fp4".
        shape: of the result, N elements.
        block_size: weights per scale.
        dtype: of the result.
        nested: `nested_absmax` and `nested_offset` of double quantization.

    Returns:
        `shape`, on the device of `codes`.
    """
    if nested is not None:
        absmax = dequantize_scales(absmax, *nested)
    num_weights = shape.numel()
    out = torch.empty(num_weights, dtype=dtype, device=codes.device)
    if out.is_meta:
        return out.view(shape)
    pairs = pair_table(code_book, codes.device)
    step = CHUNK_WEIGHTS.get(codes.device.type, CHUNK_WEIGHTS_ELSEWHERE)
    for start in range(0, num_weights, step):
        stop = min(start + step, num_weights)
        packed = codes[start // 2 : (stop + 1) // 2].int()
        values = pairs.index_select(0, packed).view(-1)[: stop - start]
        scales = absmax[start // block_size : -(-stop // block_size)]
        _write_scaled(out[start:stop], values, scales, block_size)
    return out.view(shape)


def quantize_scales(absmax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Double quantization: block scales as 8-bit codes around their mean.

    Args:
        absmax: float32 (B,).

    Returns:
        codes uint8 (B,), nested_absmax float32 (ceil(B / 256),), nested_offset float32 ().
    """
    offset = absmax.mean()
    centred = absmax - offset
    num_blocks = centred.numel()
    num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)
    padded = centred.new_zeros(num_nested * NESTED_BLOCK_SIZE)
    padded[:num_blocks] = centred
    rows = padded.view(num_nested, NESTED_BLOCK_SIZE)
    nested_absmax = rows.abs().amax(dim=1)
    # All scales equal: nothing is left to code, and bitsandbytes writes zeros.
    nothing = nested_absmax == 0
    inverse = 1.0 / nested_absmax.masked_fill(nothing, 1.0)
    codes = _nearest_dynamic(rows * inverse[:, None]).masked_fill_(nothing[:, None], 0)
    return codes.view(-1)[:num_blocks], nested_absmax, offset


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """Block scales from their 8-bit codes: `map[code] * nested_absmax + nested_offset`,
    float32 (B,).
    """
    if codes.is_meta:
        return torch.empty(codes.shape, dtype=torch.float32, device="meta")
    values = dynamic_map(codes.device).index_select(0, codes.int())
    scaled = torch.empty_like(values)
    _write_scaled(scaled, values, nested_absmax, NESTED_BLOCK_SIZE)
    return scaled.add_(nested_offset)


def _quantize_chunk(
    chunk: torch.Tensor, code_book: str, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    num_full = chunk.numel() // block_size * block_size
    blocks = chunk[:num_full].view(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    inverse = 1.0 / absmax.clamp(min=SMALLEST_SCALE)
    scaled = (blocks * inverse[:, None]).clamp_(-1, 1).view(-1)
    if num_full < chunk.numel():
        # bitsandbytes divides in the last, shorter block where it multiplies elsewhere, and stores
        # the clamped scale.
        tail = chunk[num_full:]
        tail_absmax = tail.abs().max().clamp(min=SMALLEST_SCALE)
        absmax = torch.cat([absmax, tail_absmax[None]])
        scaled = torch.cat([scaled, (tail / tail_absmax).clamp_(-1, 1)])
    if scaled.numel() % 2:
        scaled = torch.nn.functional.pad(scaled, (0, 1))
    midpoints, order = nearest(code_book, chunk.device)
    codes = order[torch.bucketize(scaled, midpoints, out_int32=True)]
    return (codes[::2] << 4) | codes[1::2], absmax


def _write_scaled(
    out: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, block_size: int
) -> None:
    num_full = values.numel() // block_size * block_size
    if num_full:
        blocks = values[:num_full].view(-1, block_size)
        product = blocks.mul_(scales[: blocks.shape[0], None])
        out[:num_full].view(-1, block_size).copy_(product)
    if num_full < values.numel():
        out[num_full:].copy_(values[num_full:] * scales[-1])


def _nearest_dynamic(normed: torch.Tensor) -> torch.Tensor:
    # bitsandbytes looks the code up in a table over 65,536 grid points of [-1, 1], so a value goes
    # to the code nearest to its grid point; equal bytes need the same detour.
    grid = ((normed.clamp(-1.0, 1.0) + 1.0) * 0.5 * DYNAMIC_GRID + 0.5).to(torch.int32)
    table = dynamic_map(normed.device)
    midpoints = (table[:-1] + table[1:]) / 2
    return torch.bucketize(grid / DYNAMIC_GRID * 2.0 - 1.0, midpoints).to(torch.uint8)


@lru_cache(maxsize=8)
def code_values(code_book: str, device: torch.device) -> torch.Tensor:
    """The values of the codes 0 to 15: float32 (16,), the largest of them 1."""
    values = torch.tensor(CODE_VALUES[code_book], dtype=torch.float32, device=device)
    return values / values.abs().max()


@lru_cache(maxsize=8)
def nearest(code_book: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Midpoints of the code values in ascending order, float32 (15,), and their codes (16,)."""
    values = code_values(code_book, device)
    order = torch.argsort(values, stable=True)
    ascending = values[order]
    return (ascending[:-1] + ascending[1:]) / 2, order.to(torch.uint8)


@lru_cache(maxsize=8)
def pair_table(code_book: str, device: torch.device) -> torch.Tensor:
    """float32 (256, 2): the two code values a byte stands for."""
    values = code_values(code_book, device)
    byte = torch.arange(256, device=device)
    return torch.stack([values[byte >> 4], values[byte & 15]], dim=1)
