"""Which decoder layers of a model are alike: what holds of one holds of all of its kind.

DeepSeek's first layers are dense and the others have experts, Gemma's look near or far, hybrids
have attention in some layers and a state in others; an adapter may be in some of them only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.contract import Kind
from lorakit.adapters.experts import ExpertFactors
from lorakit.engine.activations import decoder_layers

# The numbers by which modules of one kind differ.
NUMBERING = frozenset({"name", "layer_idx", "layer_id", "layer_number", "_depth", "training"})


def layer_kind(layer: nn.Module, *, with_ranks: bool = True) -> Hashable:
    """What decides how much a layer keeps and computes: its modules, their plain values, their
    tensors' shapes.

    Args:
        with_ranks: false: layers whose adapters differ by their rank alone are of one kind.
    """
    found: list[Any] = []
    for name, module in layer.named_modules():
        if not with_ranks and isinstance(module, Kind | ExpertFactors):
            found.append((name, type(module)))
            continue
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, int | float | str | None) and key not in NUMBERING
        }
        tensors: Sequence[Any] = [
            (key, tuple(tensor.shape), tensor.dtype)
            for own in (module._parameters, module._buffers)
            for key, tensor in own.items()
            if tensor is not None
        ]
        found.append((name, type(module), tuple(sorted(plain.items())), tuple(tensors)))
    return tuple(found)


def places_by_kind(model: PreTrainedModel, *, with_ranks: bool = True) -> list[list[int]]:
    """The places of the decoder layers of each kind, in the order in which kinds begin."""
    places: dict[Hashable, list[int]] = {}
    for place, layer in enumerate(decoder_layers(model)):
        places.setdefault(layer_kind(layer, with_ranks=with_ranks), []).append(place)
    return list(places.values())
