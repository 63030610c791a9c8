"""A linear layer whose weight never trains, however the weight is stored.

O out_features, I in_features.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from lorakit import kernels


class FrozenWeight(Protocol):
    """What a storage (one file in `base/storages/`) promises: an (O, I) weight that never changes.

    A storage may keep its bytes on the compute device, in host memory or on disk; `dequantize` brings
    the dense weight to where it is needed.
    """

    shape: torch.Size  # (O, I)
    dtype: torch.dtype  # dtype of the dense weight

    def dequantize(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> torch.Tensor:
        """The dense weight (O, I); the very same tensor object when nothing has to be converted."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored tensors by name; their bytes are the storage's memory."""
        ...

    def to(self, device: torch.device | str) -> FrozenWeight:
        """The same weight with its stored tensors on `device`."""
        ...


class FrozenLinear(nn.Module):
    """`y = x @ W.T + bias` with a frozen `W` behind any storage.

    Stands in for `nn.Linear` and for GPT-2's `Conv1D` (whose weight is stored transposed).
    The bias stays a parameter, frozen unless somebody trains biases.
    """

    def __init__(self, stored: FrozenWeight, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.stored = stored
        self.out_features, self.in_features = stored.shape
        self.bias = bias

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight (O, I) in the storage's dtype. Models and trainers that peek at it get a value."""
        return self.stored.dequantize()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ W.T` without the bias: (..., I) -> (..., O)."""
        return kernels.frozen_linear(x, self.stored, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.frozen_linear(x, self.stored, self.bias)
