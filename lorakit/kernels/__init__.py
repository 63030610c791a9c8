"""The ops lorakit computes with. Which implementation runs is decided here and nowhere else.

`reference/` holds the definition of every op in plain PyTorch; a faster backend is chosen below,
by device, once it equals the reference (tests/kernels).
"""

from __future__ import annotations

from lorakit.kernels.reference.attention import (
    decode_attention,
    masked_attention,
    packed_attention,
)
from lorakit.kernels.reference.cross_entropy import linear_cross_entropy
from lorakit.kernels.reference.dropout import dropout_mask, mix_keys, module_key
from lorakit.kernels.reference.dynamic8 import dequantize_dynamic, quantize_dynamic
from lorakit.kernels.reference.four_bit import (
    dequantize_scales,
    four_bit_dequantize,
    four_bit_quantize,
    quantize_scales,
)
from lorakit.kernels.reference.frozen_linear import frozen_linear
from lorakit.kernels.reference.grouped_linear import frozen_grouped_linear, grouped_linear
from lorakit.kernels.reference.int8 import int8_dequantize, int8_quantize

__all__ = [
    "decode_attention",
    "dequantize_dynamic",
    "dequantize_scales",
    "dropout_mask",
    "four_bit_dequantize",
    "four_bit_quantize",
    "frozen_grouped_linear",
    "frozen_linear",
    "grouped_linear",
    "int8_dequantize",
    "int8_quantize",
    "linear_cross_entropy",
    "masked_attention",
    "mix_keys",
    "module_key",
    "packed_attention",
    "quantize_dynamic",
    "quantize_scales",
]
