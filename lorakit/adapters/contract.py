"""What an adapter kind is: the contract every file in `adapters/kinds/` fulfils.

O out_features, I in_features, R rank. The laws of the test-suite run over every kind in the folder.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.base.frozen_linear import FrozenLinear


class Kind(nn.Module):
    """A trainable change to one frozen linear layer.

    Subclasses hold float32 parameters whose names are PEFT's tensor suffixes, and compute in the
    dtype of the input: parameters are cast for the products, gradients arrive in float32.
    """

    NAME: ClassVar[str]

    def forward(self, x: torch.Tensor, base: FrozenLinear) -> torch.Tensor:
        """The adapted layer's output (..., O), bias included, for input (..., I)."""
        raise NotImplementedError

    def merged_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """The dense weight (O, I) that computes the same without the adapter; same dtype as `weight`,
        computed in float32 (float64 for a float64 weight)."""
        raise NotImplementedError

    def peft_tensors(self) -> dict[str, nn.Parameter]:
        """{suffix in PEFT's file: parameter}, such as `lora_A.weight` (R, I) and `lora_B.weight` (O, R)."""
        raise NotImplementedError
