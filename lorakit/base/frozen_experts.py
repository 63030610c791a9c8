"""The experts of a layer, whose weights never train, however they are stored.

transformers 5 keeps the weights of all experts of a layer in one three-dimensional parameter per
projection. A `FrozenExperts` stands in its place, under its name, over any storage.

E experts, O out_features, I in_features, S rows (a token once for each expert it is sent to).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit import kernels
from lorakit.base import experts_forward
from lorakit.base.frozen_linear import FrozenWeight
from lorakit.base.library_classes import JETMOE_EXPERTS, LLAMA4_EXPERTS, class_name
from lorakit.base.storages.dense import DenseWeight

# What transformers' decorator `use_experts_implementation` gives to an experts module: such a one
# computes with the registered function that its config names.
DISPATCHED = frozenset({"has_bias", "has_gate", "has_post_expert_norm", "is_transposed"})
# The weights of an experts module, in the order in which every class defines them.
NAMES = ("gate_up_proj", "up_proj", "down_proj")
# What configs call the number of experts that a token is sent to.
EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)


@dataclass(frozen=True)
class ExpertsLayout:
    """How a model holds one projection of a layer's experts.

    Attributes:
        transposed: as (E, I, O) instead of (E, O, I).
        tells: whether the module that holds it says so (`is_transposed`), which PEFT goes by.
        parameter: name of the parameter below the place; "" where the place is the parameter.
    """

    transposed: bool = False
    tells: bool = True
    parameter: str = ""


class FrozenExperts(nn.Module):
    """The products of one projection with a frozen weight for each expert.

    Attributes:
        stored: (E, O, I), or (E, I, O) as the layout says.
    """

    def __init__(self, stored: FrozenWeight, layout: ExpertsLayout) -> None:
        super().__init__()
        self.stored = stored
        self.layout = layout
        self.num_experts, rows, columns = stored.shape
        self.in_features, self.out_features = (
            (rows, columns) if layout.transposed else (columns, rows)
        )

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight in the storage's dtype, in the layout of the parameter."""
        return self.stored.dequantize()

    def forward(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """(S, I) -> (S, O): rows sorted by expert, `counts` of them for each."""
        return kernels.frozen_grouped_linear(
            x,
            self.stored,
            counts,
            out_features=self.out_features,
            transposed=self.layout.transposed,
        )

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"num_experts={self.num_experts}, {sizes}"


def expert_layouts(model: nn.Module) -> dict[str, ExpertsLayout]:
    """{path: layout} of every projection of experts that a `FrozenExperts` can stand for.

    The path is that of the parameter (of JetMoE's: of the module that has nothing else), whether
    or not a `FrozenExperts` is there already.
    """
    layouts = {}
    for path, module in model.named_modules():
        if not module._modules and module._parameters.keys().isdisjoint(NAMES):
            continue  # most modules
        # In the order of definition, whatever was replaced first.
        for name in dict.fromkeys((*NAMES, *module._modules)):
            layout = layout_of(module, name)
            if layout is not None:
                layouts[f"{path}.{name}".removeprefix(".")] = layout
    return layouts


def layout_of(owner: nn.Module, name: str) -> ExpertsLayout | None:
    """The layout of the projection that `owner` has under `name`; None where that is none."""
    child = owner._modules.get(name)
    if isinstance(child, FrozenExperts):
        return child.layout
    if child is not None and class_name(child) == JETMOE_EXPERTS:
        return ExpertsLayout(parameter="weight")
    parameter = owner._parameters.get(name)
    if parameter is None or parameter.dim() != 3 or name not in NAMES:
        return None
    if _is_llama4(owner):
        return ExpertsLayout(transposed=True, tells=False)
    facts = vars(owner)
    return ExpertsLayout(facts["is_transposed"]) if facts.keys() >= DISPATCHED else None


def rows_per_token(module: FrozenExperts, config: PreTrainedConfig) -> int:
    """How many of a projection's rows a token is; `config` is that of the text model."""
    if module.layout.transposed and not module.layout.tells:
        return module.num_experts  # Llama 4 sends every token to every expert
    values = vars(config)  # `to_dict` copies all of it, for each layer
    found = [values[name] for name in EXPERTS_PER_TOKEN if isinstance(values.get(name), int)]
    return found[0] if found else module.num_experts


def parameter_name(path: str, layout: ExpertsLayout) -> str:
    """Name of the parameter in the plain model."""
    return f"{path}.{layout.parameter}" if layout.parameter else path


def experts_at(model: nn.Module, path: str, layout: ExpertsLayout) -> FrozenExperts:
    """The `FrozenExperts` at a path, or a new one over the very parameter; `model` stays."""
    owner, name = _owner(model, path)
    child = owner._modules.get(name)
    if isinstance(child, FrozenExperts):
        return child
    parameter = model.get_parameter(parameter_name(path, layout))
    return FrozenExperts(DenseWeight(parameter), layout)


def put_experts(model: PreTrainedModel, path: str, module: nn.Module) -> None:
    """Put `module` in the place of a projection, and let the model compute with it."""
    owner, name = _owner(model, path)
    owner._parameters.pop(name, None)
    setattr(owner, name, module)
    if vars(owner).keys() >= DISPATCHED:
        experts_forward.use_in(model)
    elif _is_llama4(owner):
        experts_forward.use_in_llama4(owner)


def put_parameters_back(model: PreTrainedModel) -> None:
    """Undo `put_experts` where a projection is dense and has no adapter any more."""
    for owner in list(model.modules()):
        for name in NAMES:
            child = owner._modules.get(name)
            if isinstance(child, FrozenExperts) and isinstance(child.stored, DenseWeight):
                del owner._modules[name]
                owner.register_parameter(name, child.stored.get_parameter("weight"))
        if _is_llama4(owner) and not owner._modules.keys() & set(NAMES):
            experts_forward.restore_llama4(owner)
    if not any(isinstance(module, FrozenExperts) for module in model.modules()):
        experts_forward.restore(model)


def take_back(root: nn.Module) -> None:
    """Make parameters of those that a copy of a model has at the places of modules, and let the
    copy compute with transformers' own functions again.
    """
    if _is_llama4(root):
        experts_forward.restore_llama4(root)
    children: list[tuple[str, Any]] = list(root._modules.items())
    parameters = {name: child for name, child in children if isinstance(child, nn.Parameter)}
    for name in sorted(parameters, key=NAMES.index):
        del root._modules[name]
        root.register_parameter(name, parameters[name])
    for child in root.children():
        take_back(child)


def _is_llama4(module: nn.Module) -> bool:
    return class_name(module) == LLAMA4_EXPERTS


def _owner(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name
