"""Which weights of a model are stored packed, and how to find, read and replace them by path."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.base.frozen_experts import (
    FrozenExperts,
    expert_layouts,
    experts_at,
    layout_of,
    parameter_name,
    put_experts,
)
from lorakit.base.frozen_linear import (
    FrozenLinear,
    FrozenWeight,
    LinearLayer,
    frozen,
    is_conv1d,
    is_linear,
    linear_at,
)


def packable(model: PreTrainedModel) -> dict[str, str]:
    """{path: name of its parameter in the plain model} of all that is stored packed: linear layers
    but output head and expert routers, and experts.
    """
    linears = {path: f"{path}.weight" for path in packable_linears(model)}
    layouts = expert_layouts(model)
    return linears | {path: parameter_name(path, layout) for path, layout in layouts.items()}


def packable_linears(model: PreTrainedModel) -> list[str]:
    """Paths of the linear layers that are stored packed: all but output head and expert routers.

    Routers stay dense because a rounded score chooses other experts altogether.
    """
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if is_linear(module) and module is not head and not is_router(name)
    ]


# Names of the modules that choose experts, or have a layer that does.
ROUTERS = frozenset({"router", "gate"})


def is_router(path: str) -> bool:
    """Whether a module's path says that it chooses experts, or how much a shared one counts."""
    parts = path.split(".")
    return parts[-1] == "shared_expert_gate" or not ROUTERS.isdisjoint(parts)


Layer = LinearLayer | FrozenExperts


def layer_at(model: nn.Module, path: str) -> Layer:
    """The linear layer at a path of `packable`, or the experts there; `model` stays as it is."""
    layout = layout_of(model.get_submodule(path.rpartition(".")[0]), _leaf(path))
    return linear_at(model, path) if layout is None else experts_at(model, path, layout)


def is_frozen(model: nn.Module, path: str) -> bool:
    """Whether a frozen layer or frozen experts stand at a path of `packable` already."""
    owner = model.get_submodule(path.rpartition(".")[0])
    return isinstance(owner._modules.get(_leaf(path)), FrozenLinear | FrozenExperts)


def stored_at(model: nn.Module, path: str) -> FrozenWeight:
    """The weight at a path of `packable`, dense where it is no frozen one yet."""
    layer = layer_at(model, path)
    return layer.stored if isinstance(layer, FrozenExperts) else frozen(layer).stored


def weight_name(model: nn.Module, path: str) -> str:
    """Name in the plain model of the weight of a linear layer, an embedding or experts."""
    layout = layout_of(model.get_submodule(path.rpartition(".")[0]), _leaf(path))
    return f"{path}.weight" if layout is None else parameter_name(path, layout)


def path_of(model: nn.Module, parameter: str) -> str:
    """The path of `packable` that a parameter of the plain model belongs to."""
    owner, _, name = parameter.rpartition(".")
    return owner if layout_of(model.get_submodule(owner), name) is None else parameter


def replace_layer(model: PreTrainedModel, path: str, stored: FrozenWeight) -> None:
    """Put a `FrozenLinear` over `stored` in the place of the linear layer at `path`, or a
    `FrozenExperts` in the place of the experts there.
    """
    layer = layer_at(model, path)
    replacing: FrozenLinear | FrozenExperts
    if isinstance(layer, FrozenExperts):
        replacing = FrozenExperts(stored, layer.layout)
    else:
        replacing = FrozenLinear(stored, layer.bias, fan_in_fan_out=is_conv1d(layer))
    # transformers draws random weights for modules and tensors without this mark.
    marked: list[Any] = [*replacing.modules(), *stored.tensors().values()]
    for each in marked:
        each._is_hf_initialized = True
    if isinstance(replacing, FrozenExperts):
        put_experts(model, path, replacing)
    else:
        setattr(model.get_submodule(path.rpartition(".")[0]), _leaf(path), replacing)


def storable_weight(layer: Layer) -> torch.Tensor:
    """A layer's dense weight as its storage holds it: (O, I) of a linear layer, as it is of
    experts.
    """
    return layer.weight.t() if isinstance(layer, Conv1D) else layer.weight


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]
