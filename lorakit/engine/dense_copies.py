"""Dense copies of packed weights, kept while a model trains, so that no step unpacks them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear, MovableWeight
from lorakit.base.packed import PackedWeight

Frozen = FrozenLinear | FrozenExperts


class KeptDense(nn.Module):
    """Stands in for a packed weight, whose buffers and names it has.

    Args:
        packed: what is stored, a `PackedWeight`.
        dense: the same weight unpacked; given away uncopied to whoever asks for its dtype and
            device.
    """

    def __init__(self, packed: Any, dense: torch.Tensor) -> None:
        super().__init__()
        self._buffers = packed._buffers
        self.shape, self.dtype = packed.shape, packed.dtype
        # In tuples, so that they are neither child nor buffer.
        self.packed: tuple[MovableWeight] = (packed,)
        self._dense = (dense,)

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight, the very bits that the packed one would give."""
        (dense,) = self._dense
        if (dtype or self.dtype) == dense.dtype and (device or dense.device) == dense.device:
            return dense
        return self.packed[0].dequantize(dtype, device)

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """One part along the first dimension."""
        (dense,) = self._dense
        if (dtype or self.dtype) == dense.dtype and (device or dense.device) == dense.device:
            return dense[index]
        return self.packed[0].dequantize_part(index, dtype, device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Those of the packed weight."""
        return self.packed[0].tensors()


def dense_copy_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """What `dense_copies` would take; 0 where nothing is packed.

    Weights that are kept elsewhere while they do not compute (offloaded ones) are not among them.
    """
    return sum(module.stored.shape.numel() * dtype.itemsize for module in _packed(model))


@contextmanager
def dense_copies(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, every packed weight is there unpacked too, in `dtype`."""
    packed = [(module, module.stored) for module in _packed(model)]
    try:
        for module, stored in packed:
            module.stored = KeptDense(stored, stored.dequantize(dtype))
        yield
    finally:
        for module, stored in packed:
            module.stored = stored


def _packed(model: nn.Module) -> list[Frozen]:
    return [
        module
        for module in model.modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
        and isinstance(module.stored, PackedWeight)
    ]
