"""One packed weight of a checkpoint, as its files describe it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lorakit.base import four_bit
from lorakit.base.checkpoint import TensorEntry, read_tensor
from lorakit.base.dtypes import TORCH_DTYPES
from lorakit.base.four_bit import FourBitWeight
from lorakit.base.storages import int8
from lorakit.base.storages.int8 import Int8Weight

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Packed = FourBitWeight | Int8Weight


@dataclass(frozen=True)
class PackedEntry:
    """One packed weight of a checkpoint, its tensors checked against each other.

    Attributes:
        weight: the tensor with the codes.
        companions: {suffix, such as `absmax`: the tensor}.
        quantization: the storage that holds it: "nf4", "fp4" or "int8".
        shape: of the dense weight, (O, I) for linear layers (and for GPT-2's `Conv1D` too).
        dtype: that it was packed from; float16 in int8, which rounds to it.
        block_size: weights per scale; of int8, a row.
        nested_offset: the mean of the block scales; None without double quantization.
    """

    weight: TensorEntry
    companions: dict[str, TensorEntry]
    quantization: str
    shape: torch.Size
    dtype: torch.dtype
    block_size: int
    nested_offset: float | None = None

    @property
    def double_quantization(self) -> bool:
        return self.nested_offset is not None

    def as_dense(self, dtype: torch.dtype) -> TensorEntry:
        """The same place as if it held the dense weight in `dtype`."""
        name = next(name for name, known in TORCH_DTYPES.items() if known == dtype)
        return replace(self.weight, dtype=name, shape=tuple(self.shape))

    def empty(self, dtype: torch.dtype) -> Packed:
        """The storage on the meta device; `dtype` is that of its dense weight."""
        if self.quantization == int8.QUANTIZATION:
            return int8.empty(self.shape, dtype)
        return four_bit.empty(
            self.quantization, self.shape, dtype, self.block_size, self.double_quantization
        )

    def read(self, dtype: torch.dtype) -> Packed:
        """The storage over the very bytes of the file; `dtype` is that of its dense weight."""
        stored = read_tensor(self.weight)
        if self.quantization == int8.QUANTIZATION:
            return Int8Weight(stored, read_tensor(self.companions["SCB"]), dtype)
        nested_absmax = nested_offset = None
        if self.nested_offset is not None:
            nested_absmax = read_tensor(self.companions["nested_absmax"])
            nested_offset = torch.tensor(self.nested_offset, dtype=torch.float32)
        return FourBitWeight(
            self.quantization,
            stored.view(-1).view(torch.uint8)[: (self.shape.numel() + 1) // 2],
            read_tensor(self.companions["absmax"]),
            self.shape,
            dtype,
            block_size=self.block_size,
            nested_absmax=nested_absmax,
            nested_offset=nested_offset,
        )


def packed_from(entry: PackedEntry, config: dict[str, Any]) -> torch.dtype:
    """The dtype of the weight that was packed, which a dense copy of the checkpoint has.

    Args:
        config: the values of the checkpoint's config.json: LLM.int8 rounds every weight to float16
            and does not say what it was.
    """
    named = config.get("dtype", config.get("torch_dtype"))
    if entry.quantization == int8.QUANTIZATION and named in DTYPES:
        return DTYPES[named]
    return entry.dtype
