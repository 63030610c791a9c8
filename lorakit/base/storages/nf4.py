"""NF4: 4-bit codes at the quantiles of a normal distribution (arXiv 2305.14314, QLoRA).

`lorakit.nf4.quantize(weight).dequantize()` is the public face of this file.
"""

from __future__ import annotations

import torch

from lorakit.base import four_bit
from lorakit.base.four_bit import BLOCK_SIZES, FourBitWeight

__all__ = ["BLOCK_SIZES", "QUANTIZATION", "pack", "quantize"]

QUANTIZATION = "nf4"


def quantize(
    weight: torch.Tensor, block_size: int = 64, double_quantization: bool = True
) -> FourBitWeight:
    """Quantize a weight to NF4.

    Args:
        weight: any shape and device; float32, float16, bfloat16 or float64, finite. Flattened
            row-major and padded in the last byte only, so odd sizes work.
        block_size: weights per scale, one of 32, 64, ... 4096.
        double_quantization: store the scales in 8 bits (0.37 bit per weight less at block size 64).

    Returns:
        The packed weight; `.dequantize()` gives it back in `weight`'s dtype.

    Raises:
        InputError: another block size or dtype, or an empty weight.
    """
    return four_bit.quantize(weight, QUANTIZATION, block_size, double_quantization)


def pack(weight: torch.Tensor, *, block_size: int, double_quantization: bool) -> FourBitWeight:
    """Store a dense weight in NF4."""
    return quantize(weight, block_size, double_quantization)
