"""The names in a PEFT file as PEFT takes them: loosely. What matches nothing is left out, and an
item of `modules_to_save` takes every name that ends with its bare text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from lorakit.adapters.layer_numbers import layer_number, layer_patterns
from lorakit.adapters.patterns import NamePattern, matches_list
from lorakit.adapters.peft_config import PeftConfig
from lorakit.adapters.save import PREFIX
from lorakit.adapters.targets import find_targets
from lorakit.base.frozen_experts import expert_layouts, parameter_name
from lorakit.recipe import LoraConfig


def config_as_peft(
    model: PreTrainedModel, parsed: PeftConfig, tensor_names: Iterable[str]
) -> LoraConfig:
    """The config of a file, with names that lorakit reads as PEFT reads the file's.

    Targets that are not named at all (PEFT's table for the architecture was in effect) are those of
    the tensors. Where nothing is left of an option that has to name something, it stays as it is,
    and whoever uses it says what is wrong.

    Args:
        model: whose modules are named.
        parsed: the file.
        tensor_names: in the file.
    """
    config = parsed.config
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    changes: dict[str, Any] = {}
    if config.modules_to_save:
        changes["modules_to_save"] = _taken_by_peft(names, config.modules_to_save)
    if config.exclude_modules:
        changes["exclude_modules"] = _with_effect(names, config.exclude_modules)
    if parsed.targets_unnamed:
        owners = {name.removeprefix(PREFIX).removesuffix(".lora_A.weight") for name in tensor_names}
        changes["target_modules"] = sorted(owners & set(names))
    elif isinstance(config.target_modules, list):
        known = [one for one in config.target_modules if _matches(names, one)]
        changes["target_modules"] = known or config.target_modules
    if config.target_parameters:
        parameters = [parameter_name(path, one) for path, one in expert_layouts(model).items()]
        parameters += [f"{name}.weight" for name in names]
        named = [one for one in config.target_parameters if _matches(parameters, one)]
        changes["target_parameters"] = named or config.target_parameters
    if config.layers is not None:
        there = _layers_with_targets(model, config.model_copy(update=changes))
        known_layers = [number for number in config.layers if number in there]
        changes["layers_to_transform"] = known_layers or config.layers
    return config.model_copy(update=changes)


def _layers_with_targets(model: PreTrainedModel, config: LoraConfig) -> set[int | None]:
    """The numbers of the layers that have targets, `layers_to_transform` aside."""
    everywhere = config.model_copy(update={"layers_to_transform": None, "layers_pattern": None})
    targets = find_targets(model, everywhere)
    # As in PEFT the option does not concern what target_parameters names.
    as_parameters = targets.target_parameters() if config.target_parameters else {}
    patterns = layer_patterns(config)
    return {layer_number(name, patterns) for name in targets.adapted.keys() - as_parameters.keys()}


def _matches(names: Iterable[str], item: str) -> bool:
    return any(matches_list(name, [item]) for name in names)


def _with_effect(names: list[str], excluded: str | list[str]) -> str | list[str] | None:
    if isinstance(excluded, list):
        return [item for item in excluded if _matches(names, item)] or None
    pattern = NamePattern(excluded, "exclude_modules")
    return excluded if any(pattern.matches_whole(name) for name in names) else None


def _taken_by_peft(names: list[str], wanted: list[str]) -> list[str]:
    """The items, written out where PEFT takes more than they name."""
    taken = {item: [name for name in names if name.endswith(item)] for item in wanted}
    exact = all(matches_list(name, [item]) for item in wanted for name in taken[item])
    return wanted if exact else sorted({name for each in taken.values() for name in each})
