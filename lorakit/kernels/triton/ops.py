"""The ops of this backend, under the names of the reference's.

A kernel reads and writes where it is told to. So every op looks at dtypes, devices and sizes first;
what it does not serve, or what does not fit together, is the reference's to do or to refuse.
"""

from __future__ import annotations

from lorakit.kernels.triton.column_dots import column_dots
from lorakit.kernels.triton.cross_entropy import cross_entropy
from lorakit.kernels.triton.dropout import keyed_dropout
from lorakit.kernels.triton.four_bit import dequantize_scales, four_bit_dequantize
from lorakit.kernels.triton.rms_norm import rms_norm, rms_norm_backward
from lorakit.kernels.triton.rotary import rotary
from lorakit.kernels.triton.silu_mul import silu_mul, silu_mul_backward

__all__ = [
    "column_dots",
    "cross_entropy",
    "dequantize_scales",
    "four_bit_dequantize",
    "keyed_dropout",
    "rms_norm",
    "rms_norm_backward",
    "rotary",
    "silu_mul",
    "silu_mul_backward",
]
