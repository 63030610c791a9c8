"""Ops for float32 on the CPU, compiled by numba and run on PyTorch's own threads.

Every op has a namesake in `kernels/reference/`, which defines it and serves what is not float32.
"""

# Their names, for who asks without loading numba, which takes time and memory.
COMPILED = frozenset(
    {
        "column_dots",
        "dequantize_scales",
        "four_bit_dequantize",
        "four_bit_quantize",
        "keyed_dropout",
        "rms_norm",
        "rms_norm_backward",
        "rotary",
        "silu_mul",
        "silu_mul_backward",
    }
)
