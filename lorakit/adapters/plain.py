"""Back from lorakit's modules to the library's own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.base.frozen_experts import ExpertsLayout, FrozenExperts, take_back
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages.dense import DenseWeight


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


def plain_experts(layout: ExpertsLayout, weight: torch.Tensor) -> nn.Module | nn.Parameter:
    """What transformers has at the place of experts, over a copy of `weight`: a parameter, or the
    module around one.
    """
    parameter = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if not layout.parameter:
        return parameter
    # Not at the top: see `base/library_classes.py`; where there are such experts it is there.
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeParallelExperts

    num_experts, out_features, in_features = weight.shape
    with torch.device("meta"):
        module = JetMoeParallelExperts(num_experts, in_features, out_features)
    module.weight = parameter
    return module


def dense_copy(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """A copy of `module` with its own parameters; frozen layers in it become plain ones.

    Of experts themselves the copy is a `FrozenExperts` again, over a dense weight.

    Args:
        module: to copy.
        device: of the copy; None: where `module` is. Nothing but shapes is copied from or to the
            meta device.
    """
    if isinstance(module, FrozenExperts):
        return FrozenExperts(DenseWeight(_dense(module, device)), module.layout)
    stand_ins: dict[int, Any] = {}
    for child in module.modules():
        if isinstance(child, FrozenLinear):
            plain = plain_linear(child, _dense(child, device))
            stand_ins[id(child)] = plain if device is None else _moved(plain, device)
        elif isinstance(child, FrozenExperts):
            stand_ins[id(child)] = plain_experts(child.layout, _dense(child, device))
        elif device is not None:
            for tensor in (*child.parameters(recurse=False), *child.buffers(recurse=False)):
                stand_ins[id(tensor)] = _moved_tensor(tensor, device)
    copied = copy.deepcopy(module, stand_ins)
    take_back(copied)
    return copied


def _dense(child: FrozenLinear | FrozenExperts, device: torch.device | None) -> torch.Tensor:
    """Its weight where the copy will be; without data on the meta device."""
    if device is not None and device.type == "meta":
        return torch.empty(child.stored.shape, dtype=child.stored.dtype, device=device)
    return child.stored.dequantize(device=device)


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(t): _moved_tensor(t, device) for t in tensors})


def _moved_tensor(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.is_meta or device.type == "meta":
        moved = torch.empty_like(tensor, device=device)
    else:
        moved = tensor.detach().to(device, copy=True)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
