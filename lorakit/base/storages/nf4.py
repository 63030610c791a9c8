"""A frozen weight in NF4, byte for byte as bitsandbytes stores it (see `kernels/reference/nf4.py`).

`lorakit.nf4.quantize(weight).dequantize()` is the public face of this file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lorakit import kernels
from lorakit.errors import InputError
from lorakit.kernels.reference.nf4 import NESTED_BLOCK_SIZE

QUANTIZATION = "nf4"
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


class NF4Weight(nn.Module):
    """Packed codes and block scales of one weight.

    Attributes:
        codes: uint8 (ceil(N / 2),), two codes per byte, the first in the high nibble.
        absmax: float32 (B,) block scales; uint8 (B,) codes of them when double-quantized.
        nested_absmax: float32 (ceil(B / 256),), nested_offset: float32 (); None without double
            quantization.
        shape: of the dense weight; dtype: of the dense weight when none is asked for.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    nested_absmax: torch.Tensor | None
    nested_offset: torch.Tensor | None

    def __init__(
        self,
        codes: torch.Tensor,
        absmax: torch.Tensor,
        shape: torch.Size,
        dtype: torch.dtype,
        *,
        block_size: int,
        nested_absmax: torch.Tensor | None = None,
        nested_offset: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("absmax", absmax)
        self.register_buffer("nested_absmax", nested_absmax)
        self.register_buffer("nested_offset", nested_offset)
        self.shape = shape
        self.dtype = dtype
        self.block_size = block_size

    @property
    def double_quantization(self) -> bool:
        return self.nested_absmax is not None

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight, new each time; float32 arithmetic, rounded once to `dtype`."""
        codes, scales = self.codes, self._scales()
        if device is not None:
            codes, scales = codes.to(device), scales.to(device)
        return kernels.nf4_dequantize(
            codes, scales, self.shape, self.block_size, dtype or self.dtype
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored tensors by name."""
        return dict(self.named_buffers())

    def with_tensors(self, tensors: dict[str, torch.Tensor]) -> NF4Weight:
        """The same shape, dtype and block size over other tensors."""
        return NF4Weight(
            tensors["codes"],
            tensors["absmax"],
            self.shape,
            self.dtype,
            block_size=self.block_size,
            nested_absmax=tensors.get("nested_absmax"),
            nested_offset=tensors.get("nested_offset"),
        )

    def extra_repr(self) -> str:
        return (
            f"shape={tuple(self.shape)}, dtype={self.dtype}, block_size={self.block_size}, "
            f"double_quantization={self.double_quantization}"
        )

    def _scales(self) -> torch.Tensor:
        if self.nested_absmax is None or self.nested_offset is None:
            return self.absmax
        return kernels.dequantize_scales(self.absmax, self.nested_absmax, self.nested_offset)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> NF4Weight:
        # model.to(device) may move the packed tensors; model.half() must not cast the scales.
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self


def quantize(
    weight: torch.Tensor, block_size: int = 64, double_quantization: bool = True
) -> NF4Weight:
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
    if block_size not in BLOCK_SIZES:
        raise InputError(
            f"block_size {block_size!r} is not possible in nf4; possible: "
            f"{', '.join(map(str, BLOCK_SIZES))}. Change block_size."
        )
    if not weight.is_floating_point() or weight.element_size() < 2 or weight.numel() == 0:
        raise InputError(
            f"a weight of dtype {weight.dtype} and shape {tuple(weight.shape)} cannot be quantized "
            "to nf4; possible: non-empty float16, bfloat16, float32 and float64. Convert it first."
        )
    weight = weight.detach()
    if weight.is_meta:
        return _on_meta(weight, block_size, double_quantization)
    codes, absmax = kernels.nf4_quantize(weight, block_size)
    if not double_quantization:
        return NF4Weight(codes, absmax, weight.shape, weight.dtype, block_size=block_size)
    scale_codes, nested_absmax, nested_offset = kernels.quantize_scales(absmax)
    return NF4Weight(
        codes,
        scale_codes,
        weight.shape,
        weight.dtype,
        block_size=block_size,
        nested_absmax=nested_absmax,
        nested_offset=nested_offset,
    )


def pack(weight: torch.Tensor, *, block_size: int, double_quantization: bool) -> NF4Weight:
    """Store a dense (O, I) weight in NF4."""
    return quantize(weight, block_size, double_quantization)


def _on_meta(weight: torch.Tensor, block_size: int, double_quantization: bool) -> NF4Weight:
    num_blocks = -(-weight.numel() // block_size)
    num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)

    def empty(*size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    return NF4Weight(
        empty((weight.numel() + 1) // 2, dtype=torch.uint8),
        empty(num_blocks, dtype=torch.uint8 if double_quantization else torch.float32),
        weight.shape,
        weight.dtype,
        block_size=block_size,
        nested_absmax=empty(num_nested, dtype=torch.float32) if double_quantization else None,
        nested_offset=empty(dtype=torch.float32) if double_quantization else None,
    )
