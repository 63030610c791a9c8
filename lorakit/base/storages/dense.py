"""A frozen weight as it is: the model's own parameter, not copied."""

from __future__ import annotations

import torch
from torch import nn

QUANTIZATION = "none"


class DenseWeight(nn.Module):
    """Wraps an existing parameter; `model.to(...)` moves and casts it like any other.

    `transposed` says that the parameter is (I, O), as in GPT-2's `Conv1D`.
    """

    def __init__(self, weight: torch.Tensor, *, transposed: bool = False) -> None:
        super().__init__()
        if not isinstance(weight, nn.Parameter):
            weight = nn.Parameter(weight, requires_grad=False)
        self.weight = weight.requires_grad_(False)
        self.transposed = transposed

    @property
    def shape(self) -> torch.Size:
        """(O, I)"""
        return self.weight.t().shape if self.transposed else self.weight.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The weight (O, I): the parameter itself, or a view of it, unless dtype or device
        differ.
        """
        weight = self.weight.t() if self.transposed else self.weight
        return weight.to(device=device or weight.device, dtype=dtype or weight.dtype)

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """One part along the first dimension of a weight of three: a view of the parameter."""
        part = self.weight[index]
        return part.to(device=device or part.device, dtype=dtype or part.dtype)

    def tensors(self) -> dict[str, torch.Tensor]:
        """{"weight": the parameter}"""
        return {"weight": self.weight}

    def with_tensors(self, tensors: dict[str, torch.Tensor]) -> DenseWeight:
        """The same over another parameter."""
        return DenseWeight(tensors["weight"], transposed=self.transposed)

    def pack_like(self, weight: torch.Tensor) -> DenseWeight:
        """Another weight (O, I), laid out in the same way."""
        return DenseWeight(
            weight.t().contiguous() if self.transposed else weight, transposed=self.transposed
        )

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, dtype={self.dtype}, transposed={self.transposed}"


def pack(weight: torch.Tensor, *, block_size: int, double_quantization: bool) -> DenseWeight:
    """Store a dense (O, I) weight as it is; the quantization settings do not apply."""
    return DenseWeight(weight)
