"""`layers_to_transform` and `layers_pattern`: only some layers are adapted, as PEFT reads it.

A module's layer is the first number in its name that follows a list of modules, so that an expert's
number is not taken for it. A module that `target_modules` names in full is adapted whatever its
layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from lorakit.adapters.patterns import NamePattern
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

Module = TypeVar("Module")


def limit_layers(
    adapted: Mapping[str, Module], config: LoraConfig
) -> tuple[dict[str, Module], dict[str, str]]:
    """Those of `adapted` that `layers_to_transform` lets through, and {name: reason} of the others.

    Raises:
        AdapterError: a layer number that none of the modules has.
    """
    wanted = config.layers
    if wanted is None:
        return dict(adapted), {}
    in_full = set(config.target_modules) if isinstance(config.target_modules, list) else set()
    patterns = layer_patterns(config)
    layers = {name: layer_number(name, patterns) for name in adapted}
    missing = sorted(set(wanted) - set(layers.values()))
    if missing:
        known = sorted(number for number in set(layers.values()) if number is not None)
        among = f" of {config.patterns_of_layers!r}" if config.patterns_of_layers else ""
        raise AdapterError(
            f"layers_to_transform {missing} are not among the layers{among} that have targets: "
            f"{_spans(known)}. Fix adapter.layers_to_transform or layers_pattern."
        )
    kept = {n: m for n, m in adapted.items() if n in in_full or layers[n] in wanted}
    return kept, dict.fromkeys(adapted.keys() - kept.keys(), "layers_to_transform")


def layer_patterns(config: LoraConfig) -> list[NamePattern]:
    """`layers_pattern`: names of lists of modules, or regexes over them; empty: any.

    Raises:
        AdapterError: no regular expression.
    """
    return [NamePattern(text, "layers_pattern") for text in config.patterns_of_layers]


def layer_number(name: str, patterns: list[NamePattern]) -> int | None:
    """The layer of a module; None where its name has no number behind one of the lists.

    Args:
        name: of the module.
        patterns: of the lists; empty: any.
    """
    if not patterns:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", name)
        return int(found.group(1)) if found else None
    numbers = (pattern.number_behind(name) for pattern in patterns)
    return next((number for number in numbers if number is not None), None)


def _spans(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))
