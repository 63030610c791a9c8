"""Files whose rank_pattern or alpha_pattern overlap: PEFT saves patterns sorted and takes the first
match, so what was trained may not be what the file says.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TypeVar

from lorakit.adapters.patterns import NamePattern
from lorakit.adapters.ranks import matching_values, module_rank_and_alpha
from lorakit.recipe import LoraConfig

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


def resolve_overlaps(
    config: LoraConfig, names: Collection[str], ranks: Mapping[str, int]
) -> LoraConfig:
    """The config of a file with the ranks that its tensors have.

    A rank is taken from the tensors where one of the patterns that match says so (PEFT cannot load
    such a file). Nothing in the file tells which alpha was trained with: the first match in the
    file's order is taken, as PEFT does, and that is said. Patterns that match nothing are dropped.

    Args:
        config: as the file says.
        names: of the adapted modules.
        ranks: {module name: rank of its tensors}.
    """
    names = list(names)
    config = config.model_copy(
        update={
            "rank_pattern": _with_effect(config.rank_pattern, names, "rank_pattern"),
            "alpha_pattern": _with_effect(config.alpha_pattern, names, "alpha_pattern"),
        }
    )
    possible = matching_values(names, config.rank_pattern, "rank_pattern")
    read = module_rank_and_alpha(names, config)
    meant = {
        name: rank
        for name, rank in ranks.items()
        if name in read and read[name][0] != rank and rank in possible.get(name, [])
    }
    alphas = matching_values(names, config.alpha_pattern, "alpha_pattern")
    unclear = {name: values for name, values in alphas.items() if len(set(values)) > 1}
    if unclear:
        name, values = next(iter(unclear.items()))
        logger.warning(
            "alpha_pattern gives %d modules several values, such as %s (%s): the order it was "
            "trained with is lost in the file; %g is taken, as PEFT does on loading",
            len(unclear),
            name,
            ", ".join(f"{value:g}" for value in values),
            read[name][1],
        )
    if not meant:
        return config
    return config.model_copy(update={"rank_pattern": meant | config.rank_pattern})


def _with_effect(patterns: Mapping[str, Value], names: list[str], field: str) -> dict[str, Value]:
    kept = {}
    for text, value in patterns.items():
        pattern = NamePattern(text, field)
        if any(pattern.matches_ending(name) for name in names):
            kept[text] = value
    return kept
