"""Block-wise 8-bit codes of a dynamic map (Dettmers et al., arXiv 2110.02861), in plain PyTorch.

    absmax_b = max |x_i|,  code_i = the map's value nearest to x_i / absmax_b     (i in block b)
    x_i is about map[code_i] * absmax_b

A dynamic map spends its codes on seven decades and is finer towards 1: the signed one for values of
both signs, the unsigned one, twice as fine, for values that are never negative. Maps and codes are
bitsandbytes', a tie going to the lower code. (Its CPU kernel for float32 first rounds x / absmax to
one of 65,536 evenly spaced points, which loses what is below 2e-5; that is not done here.)

N values, B = ceil(N / BLOCK_SIZE) blocks, the last of which may be shorter.
"""

from __future__ import annotations

from functools import lru_cache

import torch

BLOCK_SIZE = 256
SMALLEST_SCALE = 1e-38  # keeps 1 / absmax finite for blocks of zeros
DECADES = 7
# Values per step, a multiple of the block: bounds the temporaries to 4 MB on a CPU.
CHUNK_VALUES = {"cpu": 1 << 18}
CHUNK_VALUES_ELSEWHERE = 1 << 24

# A float32's upper 16 bits: sign, exponent and 7 bits of the fraction. No two midpoints between
# codes share them, so that one look-up and one comparison find the nearest code. A binary search
# takes 20 to 100 times as long on a CPU.
KEY_BITS = 16
NUM_KEYS = 1 << KEY_BITS


def quantize_dynamic(values: torch.Tensor, *, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of the nearest values of the map, and one scale for each block of 256.

    Args:
        values: float32 (N,). A NaN or infinity spoils its own block only.
        signed: which map; the unsigned one takes no negative value.

    Returns:
        codes uint8 (N,) and absmax float32 (B,).
    """
    num_values = values.numel()
    codes = torch.empty(num_values, dtype=torch.uint8, device=values.device)
    absmax = torch.empty(-(-num_values // BLOCK_SIZE), dtype=torch.float32, device=values.device)
    step = CHUNK_VALUES.get(values.device.type, CHUNK_VALUES_ELSEWHERE)
    for start in range(0, num_values, step):
        chunk = values[start : start + step]
        blocks = torch.nn.functional.pad(chunk, (0, -chunk.numel() % BLOCK_SIZE))
        blocks = blocks.view(-1, BLOCK_SIZE)
        scales = blocks.abs().amax(dim=1)
        scaled = blocks * (1.0 / scales.clamp(min=SMALLEST_SCALE))[:, None]
        codes[start : start + step] = _nearest(scaled.view(-1), signed)[: chunk.numel()]
        absmax[start // BLOCK_SIZE :][: scales.numel()] = scales
    return codes, absmax


def dequantize_dynamic(codes: torch.Tensor, absmax: torch.Tensor, *, signed: bool) -> torch.Tensor:
    """`map[code] * absmax` of each value's block.

    Args:
        codes: uint8 (N,).
        absmax: float32 (B,).
        signed: which map.

    Returns:
        float32 (N,), new.
    """
    values = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    table = dynamic_map(codes.device, signed=signed)
    step = CHUNK_VALUES.get(codes.device.type, CHUNK_VALUES_ELSEWHERE)
    for start in range(0, codes.numel(), step):
        chunk = values[start : start + step]
        torch.index_select(table, 0, codes[start : start + step].int(), out=chunk)
        num_full = chunk.numel() // BLOCK_SIZE
        scales = absmax[start // BLOCK_SIZE :]
        chunk[: num_full * BLOCK_SIZE].view(-1, BLOCK_SIZE).mul_(scales[:num_full, None])
        if num_full * BLOCK_SIZE < chunk.numel():
            chunk[num_full * BLOCK_SIZE :].mul_(scales[num_full])
    return values


@lru_cache(maxsize=16)
def dynamic_map(device: torch.device, *, signed: bool = True) -> torch.Tensor:
    """The 8-bit dynamic map: float32 (256,), ascending, with an exact 0 and 1."""
    values: list[float] = [0.0, 1.0]
    for decade in range(DECADES):
        num_values = 2 ** (decade if signed else decade + 1)
        edges = torch.linspace(0.1, 1, num_values + 1, dtype=torch.float32)
        middles = 10.0 ** (decade - DECADES + 1) * ((edges[:-1] + edges[1:]) / 2.0)
        values += middles.tolist() + ((-middles).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


def _nearest(scaled: torch.Tensor, signed: bool) -> torch.Tensor:
    lowest, midpoint = _key_tables(scaled.device, signed)
    # Arithmetic shift: keys of negative numbers are negative.
    keys = (scaled.view(torch.int32) >> (32 - KEY_BITS)).add_(NUM_KEYS // 2)
    is_above = scaled > midpoint.index_select(0, keys)
    return lowest.index_select(0, keys).add_(is_above)


@lru_cache(maxsize=8)
def _key_tables(device: torch.device, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """For the floats that share a key: uint8 the lowest's code, float32 the midpoint among them."""
    code_values = dynamic_map(torch.device("cpu"), signed=signed)
    midpoints = (code_values[:-1] + code_values[1:]) / 2
    bits = torch.arange(-NUM_KEYS // 2, NUM_KEYS // 2, dtype=torch.int32) << (32 - KEY_BITS)
    ends = torch.stack([bits, bits | ((1 << (32 - KEY_BITS)) - 1)]).view(torch.float32)
    lowest = torch.bucketize(ends.amin(dim=0), midpoints)
    limits = torch.cat([midpoints, torch.tensor([torch.inf])])
    return lowest.to(torch.uint8).to(device), limits[lowest].to(device)
