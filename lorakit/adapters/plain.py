"""Back from lorakit's modules to the library's own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.base.frozen_linear import FrozenLinear


def plain_linear(layer: FrozenLinear, weight: torch.Tensor) -> nn.Module:
    """The library's layer (`nn.Linear` or `Conv1D`) over copies of `weight` (O, I) and the bias."""
    out_features, in_features = weight.shape
    plain: nn.Linear | Conv1D
    with torch.device("meta"):
        if layer.fan_in_fan_out:
            plain = Conv1D(out_features, in_features)
            weight = weight.t()
        else:
            plain = nn.Linear(in_features, out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if isinstance(layer.bias, torch.Tensor):
        plain.bias = nn.Parameter(layer.bias.detach().clone())
    return plain.train(layer.training)


def dense_copy(module: nn.Module) -> nn.Module:
    """A copy of `module` with its own parameters; frozen linear layers in it become plain ones."""
    plain: dict[int, Any] = {
        id(child): plain_linear(child, child.weight)
        for child in module.modules()
        if isinstance(child, FrozenLinear)
    }
    return copy.deepcopy(module, plain)


def dense_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """{name: shape} of `dense_copy(module).state_dict()`, without making the copy."""
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, child in module.named_modules():
        if isinstance(child, FrozenLinear):
            prefix = f"{name}." if name else ""
            shapes = {k: v for k, v in shapes.items() if not k.startswith(f"{prefix}stored.")}
            shape = child.stored.shape
            shapes[f"{prefix}weight"] = (
                torch.Size(reversed(shape)) if child.fan_in_fan_out else shape
            )
    return shapes
