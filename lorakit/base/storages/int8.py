"""Int8 with one scale per row, byte for byte as bitsandbytes stores LLM.int8 weights (see
`kernels/reference/int8.py`).
"""

from __future__ import annotations

import torch

from lorakit import kernels
from lorakit.base.packed import PackedWeight, refuse_unquantizable
from lorakit.errors import InputError

QUANTIZATION = "int8"


class Int8Weight(PackedWeight):
    """Codes and row scales of one weight.

    Attributes:
        codes: int8 (..., I), the shape of the dense weight.
        absmax: float32 (...), the largest magnitude of each row.
        dtype: of the dense weight when none is asked for.
    """

    codes: torch.Tensor
    absmax: torch.Tensor

    def __init__(self, codes: torch.Tensor, absmax: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__(codes.shape, dtype)
        self.register_buffer("codes", codes)
        self.register_buffer("absmax", absmax)

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight, new each time; float32 arithmetic, rounded once to `dtype`."""
        return self._dequantized(self.codes, self.absmax, dtype, device)

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """One part of the dense weight along its first dimension; only that is unpacked."""
        return self._dequantized(self.codes[index], self.absmax[index], dtype, device)

    def _dequantized(
        self,
        codes: torch.Tensor,
        absmax: torch.Tensor,
        dtype: torch.dtype | None,
        device: torch.device | None,
    ) -> torch.Tensor:
        if device is not None:
            codes, absmax = codes.to(device), absmax.to(device)
        return kernels.int8_dequantize(codes, absmax, dtype or self.dtype)

    def with_tensors(self, tensors: dict[str, torch.Tensor]) -> Int8Weight:
        """The same dtype over other tensors."""
        return Int8Weight(tensors["codes"], tensors["absmax"], self.dtype)

    def pack_like(self, weight: torch.Tensor) -> Int8Weight:
        """Another dense weight, quantized in the same way."""
        return quantize(weight)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, dtype={self.dtype}"


def quantize(weight: torch.Tensor) -> Int8Weight:
    """Quantize a weight to int8, each row (last dimension) by its largest magnitude.

    Args:
        weight: at least one dimension, any device; float32, float16, bfloat16 or float64, of
            magnitudes up to 65504: it is rounded to float16 first, as bitsandbytes does.

    Returns:
        The packed weight; `.dequantize()` gives it back in `weight`'s dtype.

    Raises:
        InputError: another dtype, an empty weight, or one that is not finite in float16.
    """
    refuse_unquantizable(weight, QUANTIZATION)
    weight = weight.detach()
    if weight.is_meta:
        return empty(weight.shape, weight.dtype)
    codes, absmax = kernels.int8_quantize(weight)
    if not absmax.isfinite().all():
        raise InputError(
            f"a weight of shape {tuple(weight.shape)} has values that are not finite in float16; "
            "possible in int8: magnitudes up to 65504. Use nf4 for this model."
        )
    return Int8Weight(codes, absmax, weight.dtype)


def empty(shape: torch.Size, dtype: torch.dtype) -> Int8Weight:
    """A packed weight on the meta device: the exact tensors without data."""
    return Int8Weight(
        torch.empty(shape, dtype=torch.int8, device="meta"),
        torch.empty(shape[:-1], dtype=torch.float32, device="meta"),
        dtype,
    )


def pack(weight: torch.Tensor, *, block_size: int, double_quantization: bool) -> Int8Weight:
    """Store a dense weight in int8; the settings of 4-bit storages do not apply."""
    return quantize(weight)
