"""FP4: 4-bit floats (sign, two exponent bits, one of mantissa) with bitsandbytes' code values.

On weights, which are about normally distributed, NF4 is closer at the same size.
"""

from __future__ import annotations

import torch

from lorakit.base import four_bit
from lorakit.base.four_bit import FourBitWeight

QUANTIZATION = "fp4"


def pack(weight: torch.Tensor, *, block_size: int, double_quantization: bool) -> FourBitWeight:
    """Store a dense weight in FP4."""
    return four_bit.quantize(weight, QUANTIZATION, block_size, double_quantization)
