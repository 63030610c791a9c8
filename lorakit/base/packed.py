"""What packed storages share: tensors that move with the model but are never cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import nn

from lorakit.errors import InputError


class PackedWeight(nn.Module):
    """Holds the tensors of a packed weight as buffers.

    Attributes:
        shape: of the dense weight; dtype: of the dense weight when none is asked for.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = shape
        self.dtype = dtype

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored tensors by name."""
        # Its own: `named_buffers` goes through modules, and a plan asks every weight several times.
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # model.to(device) may move the packed tensors; model.half() must not cast the scales.
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self


def refuse_unquantizable(weight: torch.Tensor, quantization: str) -> None:
    """Raise InputError for a weight that is empty or not of a floating dtype of 16 bit or more."""
    if not weight.is_floating_point() or weight.element_size() < 2 or weight.numel() == 0:
        raise InputError(
            f"a weight of dtype {weight.dtype} and shape {tuple(weight.shape)} cannot be quantized "
            f"to {quantization}; possible: non-empty float16, bfloat16, float32 and float64. "
            "Convert it first."
        )
