"""Which rank and scaling each adapted module has: `r`, `lora_alpha`, and patterns over names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from lorakit.adapters.patterns import NamePattern
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

# `lora_alpha` with rsLoRA where it is not given: the paper keeps one alpha over all ranks (arXiv
# 2312.03732, section 4). At the default rank 16 the scaling is 2, as LoRA's default is there.
RSLORA_ALPHA = 8.0


def module_rank_and_alpha(names: Iterable[str], config: LoraConfig) -> dict[str, tuple[int, float]]:
    """{module name: (rank, alpha)}: the first matching key of rank_pattern and alpha_pattern wins.

    Without a given alpha it is that of the module's own rank.

    Raises:
        AdapterError: a key matches none of the modules.
    """
    names = list(names)
    ranks = match_patterns(names, config.rank_pattern, "rank_pattern")
    alphas = match_patterns(names, config.alpha_pattern, "alpha_pattern")
    own = {name: int(ranks.get(name, config.r)) for name in names}
    return {name: (r, alphas.get(name, alpha_of(r, config))) for name, r in own.items()}


def match_patterns(
    names: Iterable[str], patterns: Mapping[str, float], field: str
) -> dict[str, float]:
    """{module name: value of the first pattern that matches its ending}, as PEFT reads patterns.

    Raises:
        AdapterError: a pattern matches none of the modules.
    """
    names = list(names)
    for text in patterns:
        if not any(NamePattern(text, field).matches_ending(name) for name in names):
            raise AdapterError(
                f"{field} {text!r} matches none of the adapted modules, such as "
                f"{', '.join(names[:3])}. Fix or remove it in adapter.{field}."
            )
    return {name: values[0] for name, values in matching_values(names, patterns, field).items()}


def matching_values(
    names: Iterable[str], patterns: Mapping[str, float], field: str
) -> dict[str, list[float]]:
    """{module name: values of all patterns that match its ending, in order}, of those with any."""
    names = list(names)
    values: dict[str, list[float]] = {}
    for text, value in patterns.items():
        pattern = NamePattern(text, field)
        for name in names:
            if pattern.matches_ending(name):
                values.setdefault(name, []).append(value)
    return values


def alpha_of(r: int, config: LoraConfig) -> float:
    """The alpha of a module of rank r that no alpha_pattern names: `lora_alpha`; where it is not
    given, 2r (scaling 2).

    With rsLoRA RSLORA_ALPHA: an alpha that grew with r would undo it, since its scaling is to fall
    with sqrt(r).
    """
    if config.lora_alpha is not None:
        return config.lora_alpha
    return RSLORA_ALPHA if config.use_rslora else 2.0 * r


def scaling_of(r: int, alpha: float, *, use_rslora: bool) -> float:
    """alpha / r, with rsLoRA alpha / sqrt(r) (arXiv 2312.03732)."""
    return alpha / math.sqrt(r) if use_rslora else alpha / r
