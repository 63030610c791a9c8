"""A linear layer whose weight never trains, however the weight is stored.

O out_features, I in_features.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit import kernels
from lorakit.base.library_classes import FALCON_LINEAR, class_name
from lorakit.base.storages.dense import DenseWeight


class FrozenWeight(Protocol):
    """What a storage (one file in `base/storages/`) promises: a weight that never changes, (O, I)
    of a linear layer or three-dimensional of a layer's experts.

    A storage may keep its bytes on the compute device, in host memory or on disk; `dequantize`
    brings the dense weight to where it is needed. The storages here are `nn.Module`s, so that
    `model.to(device)` reaches them.
    """

    @property
    def shape(self) -> torch.Size:
        """(O, I)"""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the dense weight"""
        ...

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight (O, I), not copied when nothing has to be converted."""
        ...

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight at one index of its first dimension, such as one expert's; the other
        parts are neither read nor unpacked.
        """
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored tensors by name; their bytes are the storage's memory."""
        ...


class MovableWeight(FrozenWeight, Protocol):
    """What the storages in `base/storages/` promise beyond that: they can be put elsewhere."""

    def with_tensors(self, tensors: dict[str, torch.Tensor]) -> MovableWeight:
        """A storage of the same kind, shape and dtype over other tensors."""
        ...

    def pack_like(self, weight: torch.Tensor) -> MovableWeight:
        """Another dense weight (O, I), stored in the same way with the same settings."""
        ...

    def to(self, device: torch.device | str) -> MovableWeight:
        """This storage, its tensors moved to `device` (as `nn.Module.to`)."""
        ...


class FrozenLinear(nn.Module):
    """`y = x @ W.T + bias` with a frozen `W` behind any storage.

    Stands in for `nn.Linear` and for GPT-2's `Conv1D` (whose weight is stored transposed).
    The bias stays a parameter, frozen unless somebody trains biases.

    Attributes:
        fan_in_fan_out: the layer was a `Conv1D`; PEFT's adapter config names it so.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        stored: FrozenWeight,
        bias: nn.Parameter | None = None,
        *,
        fan_in_fan_out: bool = False,
    ) -> None:
        super().__init__()
        self.stored = stored
        self.out_features, self.in_features = stored.shape
        self.register_parameter("bias", bias)
        self.fan_in_fan_out = fan_in_fan_out

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight (O, I) in the storage's dtype. Models and trainers that peek at it
        get a value.
        """
        return self.stored.dequantize()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ W.T` without the bias: (..., I) -> (..., O)."""
        return kernels.frozen_linear(x, self.stored, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.frozen_linear(x, self.stored, self.bias)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}"


LinearLayer = nn.Linear | Conv1D | FrozenLinear


def is_conv1d(layer: nn.Module) -> bool:
    """Whether `layer` is GPT-2's `Conv1D`, or stands in for one."""
    return isinstance(layer, Conv1D) or (isinstance(layer, FrozenLinear) and layer.fan_in_fan_out)


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a linear layer that can be frozen or adapted."""
    # Exact types: a subclass may compute something else with the same weight. Falcon's spells
    # out `x @ W.T + bias`.
    plain = type(module) in (nn.Linear, Conv1D, FrozenLinear)
    return plain or class_name(module) == FALCON_LINEAR


def linear_at(model: nn.Module, path: str) -> LinearLayer:
    """The linear layer at a module path (one for which `is_linear` holds)."""
    return cast(LinearLayer, model.get_submodule(path))


def frozen(layer: nn.Module) -> FrozenLinear:
    """`layer` (a linear layer) as a `FrozenLinear` over the very same parameters."""
    if isinstance(layer, FrozenLinear):
        return layer
    assert isinstance(layer, nn.Linear | Conv1D)
    if layer.bias is not None:
        layer.bias.requires_grad_(False)
    stored = DenseWeight(layer.weight, transposed=is_conv1d(layer))
    return FrozenLinear(stored, layer.bias, fan_in_fan_out=is_conv1d(layer))
