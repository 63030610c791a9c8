"""A frozen weight in 4-bit codes, byte for byte as bitsandbytes stores it (see
`kernels/reference/four_bit.py`): what the storages `nf4` and `fp4` share.
"""

from __future__ import annotations

import torch

from lorakit import kernels
from lorakit.base.packed import PackedWeight, refuse_unquantizable
from lorakit.errors import InputError
from lorakit.kernels.reference.four_bit import NESTED_BLOCK_SIZE

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


class FourBitWeight(PackedWeight):
    """Packed codes and block scales of one weight.

    Attributes:
        code_book: "nf4" or "fp4".
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
        code_book: str,
        codes: torch.Tensor,
        absmax: torch.Tensor,
        shape: torch.Size,
        dtype: torch.dtype,
        *,
        block_size: int,
        nested_absmax: torch.Tensor | None = None,
        nested_offset: torch.Tensor | None = None,
    ) -> None:
        super().__init__(shape, dtype)
        self.register_buffer("codes", codes)
        self.register_buffer("absmax", absmax)
        self.register_buffer("nested_absmax", nested_absmax)
        self.register_buffer("nested_offset", nested_offset)
        self.code_book = code_book
        self.block_size = block_size

    @property
    def double_quantization(self) -> bool:
        return self.nested_absmax is not None

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight, new each time; float32 arithmetic, rounded once to `dtype`."""
        return self._dequantized(self.codes, self.absmax, self.shape, dtype, device, self._nested)

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """One part of the dense weight along its first dimension.

        Only the blocks it is in are unpacked; at its ends it may share one with its neighbours.
        """
        shape = self.shape[1:]
        start, stop = index * shape.numel(), (index + 1) * shape.numel()
        first, last = start // self.block_size, -(-stop // self.block_size)
        begin, end = first * self.block_size, min(last * self.block_size, self.shape.numel())
        codes = self.codes[begin // 2 : (end + 1) // 2]
        scales = self._scales_between(first, last)
        blocks = self._dequantized(codes, scales, torch.Size([end - begin]), dtype, device)
        return blocks[start - begin : stop - begin].view(shape)

    def scales(self) -> torch.Tensor:
        """The block scales, float32 (B,)."""
        if self._nested is None:
            return self.absmax
        return kernels.dequantize_scales(self.absmax, *self._nested)

    @property
    def _nested(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self.nested_absmax is None or self.nested_offset is None:
            return None
        return self.nested_absmax, self.nested_offset

    def _scales_between(self, first: int, last: int) -> torch.Tensor:
        if self.nested_absmax is None or self.nested_offset is None:
            return self.absmax[first:last]
        nested = slice(first // NESTED_BLOCK_SIZE, -(-last // NESTED_BLOCK_SIZE))
        skipped = nested.start * NESTED_BLOCK_SIZE
        scales = kernels.dequantize_scales(
            self.absmax[skipped:last], self.nested_absmax[nested], self.nested_offset
        )
        return scales[first - skipped :]

    def _dequantized(
        self,
        codes: torch.Tensor,
        scales: torch.Tensor,
        shape: torch.Size,
        dtype: torch.dtype | None,
        device: torch.device | None,
        nested: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if device is not None:
            codes, scales = codes.to(device), scales.to(device)
            nested = nested and (nested[0].to(device), nested[1].to(device))
        return kernels.four_bit_dequantize(
            codes, scales, self.code_book, shape, self.block_size, dtype or self.dtype, nested
        )

    def with_tensors(self, tensors: dict[str, torch.Tensor]) -> FourBitWeight:
        """The same code book, shape, dtype and block size over other tensors."""
        return FourBitWeight(
            self.code_book,
            tensors["codes"],
            tensors["absmax"],
            self.shape,
            self.dtype,
            block_size=self.block_size,
            nested_absmax=tensors.get("nested_absmax"),
            nested_offset=tensors.get("nested_offset"),
        )

    def pack_like(self, weight: torch.Tensor) -> FourBitWeight:
        """Another dense weight, quantized with the same settings."""
        return quantize(weight, self.code_book, self.block_size, self.double_quantization)

    def extra_repr(self) -> str:
        return (
            f"{self.code_book}, shape={tuple(self.shape)}, dtype={self.dtype}, "
            f"block_size={self.block_size}, double_quantization={self.double_quantization}"
        )


def quantize(
    weight: torch.Tensor, code_book: str, block_size: int, double_quantization: bool
) -> FourBitWeight:
    """Quantize a weight of any shape to the 4-bit codes of `code_book`.

    Raises:
        InputError: another block size or dtype, or an empty weight.
    """
    if block_size not in BLOCK_SIZES:
        raise InputError(
            f"block_size {block_size!r} is not possible in {code_book}; possible: "
            f"{', '.join(map(str, BLOCK_SIZES))}. Change block_size."
        )
    refuse_unquantizable(weight, code_book)
    weight = weight.detach()
    if weight.is_meta:
        return empty(code_book, weight.shape, weight.dtype, block_size, double_quantization)
    codes, absmax = kernels.four_bit_quantize(weight, code_book, block_size)
    nested_absmax = nested_offset = None
    if double_quantization:
        absmax, nested_absmax, nested_offset = kernels.quantize_scales(absmax)
    return FourBitWeight(
        code_book,
        codes,
        absmax,
        weight.shape,
        weight.dtype,
        block_size=block_size,
        nested_absmax=nested_absmax,
        nested_offset=nested_offset,
    )


def empty(
    code_book: str,
    shape: torch.Size,
    dtype: torch.dtype,
    block_size: int,
    double_quantization: bool,
) -> FourBitWeight:
    """A packed weight on the meta device: the exact tensors without data."""
    num_blocks = -(-shape.numel() // block_size)
    num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)

    def tensor(*size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    return FourBitWeight(
        code_book,
        tensor((shape.numel() + 1) // 2, dtype=torch.uint8),
        tensor(num_blocks, dtype=torch.uint8 if double_quantization else torch.float32),
        shape,
        dtype,
        block_size=block_size,
        nested_absmax=tensor(num_nested, dtype=torch.float32) if double_quantization else None,
        nested_offset=tensor(dtype=torch.float32) if double_quantization else None,
    )
