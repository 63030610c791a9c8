"""Dense stand-ins for packed and adapted layers, for many forward passes that train nothing.

Dequantizing every weight anew costs little beside the thousands of tokens of a training step, but
much beside the few of a step that generates; so does a low-rank branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.mixed import Mixed
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.offload import DiskWeight, HostWeight
from lorakit.base.storages.dense import DenseWeight


@contextmanager
def dense_layers(model: PreTrainedModel, max_bytes: int) -> Iterator[None]:
    """Inside, layers multiply with dense weights that were made once; no gradient reaches adapters.

    A packed weight is dequantized, those of experts too. An adapted layer whose adapter takes part
    is merged, where its weight is float32 or wider: rounded to half precision, a merged weight
    would lose part of what the adapter adds. In a mixed batch nothing is merged. Layers in host
    memory or on disk stay there. The adapter must neither change nor be switched inside.

    Args:
        max_bytes: for the dense weights together; layers for which no room is left stay as they
            are.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for owner, name, layer, _ in _replaced(model, max_bytes):
            replaced.append((owner, name, layer))
            setattr(owner, name, _dense(layer))
        yield
    finally:
        for owner, name, original in replaced:
            setattr(owner, name, original)


def dense_layer_bytes(model: PreTrainedModel, max_bytes: int) -> int:
    """What the dense weights of `dense_layers` will take; `model` may be on the meta device."""
    return sum(size for *_, size in _replaced(model, max_bytes))


Adapted = AdaptedLinear | AdaptedExperts
Frozen = FrozenLinear | FrozenExperts


def _replaced(
    model: PreTrainedModel, max_bytes: int
) -> Iterator[tuple[nn.Module, str, Adapted | Frozen, int]]:
    """Those of `_replaceable` that fit, from the first on."""
    for owner, name, layer, size in _replaceable(model):
        if size <= max_bytes:
            max_bytes -= size
            yield owner, name, layer, size


def _replaceable(owner: nn.Module) -> Iterator[tuple[nn.Module, str, Adapted | Frozen, int]]:
    """(module, name of its child, the child, bytes of its dense weight), in the model's order."""
    for name, child in list(owner.named_children()):
        if isinstance(owner, Mixed) and child is not owner.base_layer:
            continue  # a merged weight would be one adapter's
        if isinstance(child, Adapted) and _merges(child):
            yield owner, name, child, _dense_bytes(child.base_layer)
        elif isinstance(child, Frozen):
            if not isinstance(child.stored, DenseWeight | HostWeight | DiskWeight):
                yield owner, name, child, _dense_bytes(child)
        else:
            yield from _replaceable(child)


def _merges(layer: Adapted) -> bool:
    stored = layer.base_layer.stored
    elsewhere = isinstance(stored, HostWeight | DiskWeight)
    return layer.switch.on and not elsewhere and stored.dtype.itemsize >= 4


def _dense_bytes(layer: Frozen) -> int:
    return layer.stored.shape.numel() * layer.stored.dtype.itemsize


@torch.no_grad()
def _dense(layer: Adapted | Frozen) -> Frozen:
    base = layer.base_layer if isinstance(layer, Adapted) else layer
    stored = DenseWeight(layer.weight)
    if isinstance(base, FrozenExperts):
        return FrozenExperts(stored, base.layout)
    return FrozenLinear(stored, base.bias, fan_in_fan_out=base.fan_in_fan_out)
