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


def dense_copy(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """A copy of `module` with its own parameters; frozen linear layers in it become plain ones.

    Args:
        module: to copy.
        device: of the copy; None: where `module` is. Nothing but shapes is copied from or to the
            meta device.
    """
    stand_ins: dict[int, Any] = {}
    for child in module.modules():
        if isinstance(child, FrozenLinear):
            on_meta = device is not None and device.type == "meta"
            shape, dtype = child.stored.shape, child.stored.dtype
            weight = torch.empty(shape, dtype=dtype, device=device) if on_meta else child.weight
            plain = plain_linear(child, weight)
            stand_ins[id(child)] = plain if device is None else _moved(plain, device)
        elif device is not None:
            for tensor in (*child.parameters(recurse=False), *child.buffers(recurse=False)):
                stand_ins[id(tensor)] = _moved_tensor(tensor, device)
    return copy.deepcopy(module, stand_ins)


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(t): _moved_tensor(t, device) for t in tensors})


def _moved_tensor(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.is_meta or device.type == "meta":
        moved = torch.empty_like(tensor, device=device)
    else:
        moved = tensor.detach().to(device, copy=True)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
