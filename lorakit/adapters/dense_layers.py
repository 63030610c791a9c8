"""Dense stand-ins for packed and adapted layers, for many forward passes that train nothing.

Dequantizing every weight anew costs little beside the thousands of tokens of a training step, but
much beside the few of a step that generates; so does a low-rank branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.mixed import Mixed
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.hooks import is_watched
from lorakit.base.offload import DiskWeight, HostWeight
from lorakit.base.storages.dense import DenseWeight

# Names of layers that read the same, in transformers' order.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextmanager
def dense_layers(model: PreTrainedModel, max_bytes: int) -> Iterator[None]:
    """Inside, layers multiply with dense weights that were made once; no gradient reaches adapters.

    A packed weight is dequantized, those of experts too. An adapted layer whose adapter takes part
    is merged, where its weight is float32 or wider: rounded to half precision, a merged weight
    would lose part of what the adapter adds. In a mixed batch nothing is merged. Layers in host
    memory or on disk stay there, and one with hooks stays as it is. The adapter must neither change
    nor be switched inside. Weights of `SIBLINGS` lie behind one another in memory, so that they are
    one matrix too.

    Args:
        max_bytes: for the dense weights together; layers for which no room is left stay as they
            are.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for _, found in groupby(_replaced(model, max_bytes), key=_family):
            siblings = list(found)
            weights = _weights([layer for _, _, layer, _ in siblings])
            for (owner, name, layer, _), weight in zip(siblings, weights, strict=True):
                replaced.append((owner, name, layer))
                setattr(owner, name, _dense(layer, weight))
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
            stays = isinstance(child.stored, DenseWeight | HostWeight | DiskWeight)
            if not stays and not is_watched(child):
                yield owner, name, child, _dense_bytes(child)
        else:
            yield from _replaceable(child)


def _merges(layer: Adapted) -> bool:
    stored = layer.base_layer.stored
    stays = isinstance(stored, HostWeight | DiskWeight) or is_watched(layer)
    return layer.switch.on and not stays and stored.dtype.itemsize >= 4


def _dense_bytes(layer: Frozen) -> int:
    return layer.stored.shape.numel() * layer.stored.dtype.itemsize


def _family(entry: tuple[nn.Module, str, Adapted | Frozen, int]) -> tuple[int, str]:
    """The same for siblings of one module."""
    owner, name, layer, _ = entry
    base = _base(layer)
    if isinstance(base, FrozenLinear) and not base.fan_in_fan_out:
        name = next((names[0] for names in SIBLINGS if name in names), name)
    return id(owner), name


@torch.no_grad()
def _weights(layers: Sequence[Adapted | Frozen]) -> Iterator[torch.Tensor]:
    """The dense weight of each, one behind the other where they are alike."""
    facts = {(one.stored.shape[1:], one.stored.dtype) for one in map(_base, layers)}
    if len(layers) == 1 or len(facts) > 1:
        yield from (layer.weight for layer in layers)
        return
    sizes = [_base(layer).stored.shape[0] for layer in layers]
    parts: Sequence[torch.Tensor] = ()
    for number, layer in enumerate(layers):
        weight = layer.weight
        parts = parts or weight.new_empty(sum(sizes), *weight.shape[1:]).split(sizes)
        yield parts[number].copy_(weight)


def _base(layer: Adapted | Frozen) -> Frozen:
    return layer.base_layer if isinstance(layer, Adapted) else layer


def _dense(layer: Adapted | Frozen, weight: torch.Tensor) -> Frozen:
    base, stored = _base(layer), DenseWeight(weight)
    if isinstance(base, FrozenExperts):
        return FrozenExperts(stored, base.layout)
    return FrozenLinear(stored, base.bias, fan_in_fan_out=base.fan_in_fan_out)
