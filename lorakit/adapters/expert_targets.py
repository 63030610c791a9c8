"""What of a model an adapter config names as parameters: experts, and linear layers that PEFT would
take for experts under their own name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.patterns import matches_list
from lorakit.base.frozen_experts import (
    NAMES,
    ExpertsLayout,
    FrozenExperts,
    expert_layouts,
    experts_at,
    parameter_name,
)
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

# Inits that look at nothing but shapes. PEFT has the others for linear layers only.
INITS = (True, False, "gaussian")
MAX_NAMES_IN_MESSAGE = 5


def all_experts(model: PreTrainedModel) -> dict[str, FrozenExperts]:
    """{path: projection} of all experts that can be adapted; the model stays as it is."""
    layouts = expert_layouts(model)
    return {path: experts_at(model, path, layout) for path, layout in layouts.items()}


def named_as_parameters(
    experts: Mapping[str, FrozenExperts], linears: Mapping[str, nn.Module], wanted: list[str]
) -> dict[str, nn.Module]:
    """{path: module} of what `target_parameters` names, as PEFT matches a list.

    Args:
        experts: of the model.
        linears: its linear layers, whose parameter is `<path>.weight`.
        wanted: `target_parameters`.

    Raises:
        AdapterError: a name matches no parameter.
    """
    names = {path: parameter_name(path, module.layout) for path, module in experts.items()}
    known = names | {path: f"{path}.weight" for path in linears}
    unmatched = [one for one in wanted if not any(matches_list(n, [one]) for n in known.values())]
    if unmatched:
        raise AdapterError(
            f"target_parameters {unmatched!r} match no parameter of experts; this model has: "
            f"{_endings(names.values())}. Fix adapter.target_parameters."
        )
    modules = {**linears, **experts}
    return {path: modules[path] for path, name in known.items() if matches_list(name, wanted)}


def not_for_parameters(config: LoraConfig) -> str | None:
    """The option that PEFT's format does not have for parameters; None when there is none."""
    given = {
        f"kind {config.kind_name!r}": config.kind_name != "lora",
        f"lora_dropout {config.lora_dropout:g}": config.lora_dropout > 0,
        f"init_lora_weights {config.init_lora_weights!r}": config.init_lora_weights not in INITS,
    }
    return next((option for option, is_given in given.items() if is_given), None)


def refuse_what_experts_lack(experts: Collection[str], config: LoraConfig) -> None:
    """Raise AdapterError for an option that PEFT's format does not have for experts.

    Args:
        experts: paths of what would be adapted under the name of a parameter.
    """
    option = not_for_parameters(config)
    if experts and option is not None:
        raise AdapterError(
            f"{option} cannot be applied to experts: {len(experts)} parameters such as "
            f"{next(iter(experts))!r}. PEFT's format has plain LoRA without dropout for them, "
            "started from shapes alone (true, false, gaussian). Change the option, or leave "
            "the experts out with adapter.target_parameters: []."
        )


def nesting_depths(experts: Mapping[str, ExpertsLayout]) -> dict[str, int]:
    """{path: how many adapted parameters of the same module follow it}.

    PEFT wraps a module once for each adapted parameter, in the order of their definition: the
    first one is innermost, and its tensors are `<module>.base_layer.lora_A.weight`.
    """
    by_owner: dict[str, list[str]] = defaultdict(list)
    for path, layout in experts.items():
        by_owner[parameter_name(path, layout).rpartition(".")[0]].append(path)
    depths: dict[str, int] = {}
    for paths in by_owner.values():
        last_first = sorted(paths, key=_position, reverse=True)
        depths |= {path: depth for depth, path in enumerate(last_first)}
    return depths


def _position(path: str) -> int:
    name = path.rpartition(".")[2]
    return NAMES.index(name) if name in NAMES else 0


def _endings(names: Iterable[str]) -> str:
    endings = dict.fromkeys(".".join(name.split(".")[-2:]) for name in names)
    return ", ".join(list(endings)[:MAX_NAMES_IN_MESSAGE]) or "none"
