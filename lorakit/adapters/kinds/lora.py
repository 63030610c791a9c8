"""LoRA (arXiv 2106.09685): `y = W x + b + scaling * B A x`.

rsLoRA (arXiv 2312.03732) is the same with another scaling.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit import kernels
from lorakit.adapters.contract import Kind
from lorakit.base.frozen_linear import FrozenLinear


class Lora(Kind):
    """Adds a low-rank product to the frozen layer."""

    NAME = "lora"
    PEFT_FIELDS: ClassVar[dict[str, object]] = {}

    def forward(
        self, x: torch.Tensor, base: FrozenLinear, low_rank_x: torch.Tensor
    ) -> torch.Tensor:
        # The bias is fused into the frozen product, which the contract's forward cannot do.
        return self.combine(base(x), low_rank_x @ self.lora_A.to(x.dtype).T, base)

    def projection(self, base: FrozenLinear, dropout: kernels.Dropped | None) -> kernels.Projection:
        return kernels.Projection(
            base.stored, base.bias, self.lora_A, self.lora_B, self.scaling, dropout=dropout
        )

    def combine(
        self, product: torch.Tensor, down: torch.Tensor, base: FrozenLinear
    ) -> torch.Tensor:
        # Scaled where it is narrow: (..., R) instead of (..., O).
        return product + (down * self.scaling) @ self.lora_B.to(product.dtype).T

    def merged_weight(self, weight: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        delta = self.lora_B.to(wide) @ self.lora_A.to(wide)
        return (weight.to(wide) + delta * self.scaling).to(weight.dtype)

    def peft_tensors(self) -> dict[str, nn.Parameter]:
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}
