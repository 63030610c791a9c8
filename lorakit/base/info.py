"""How a base model was loaded, retrievable from the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lorakit.base.placement import Placed
from lorakit.errors import ModelError


@dataclass(frozen=True)
class BaseInfo:
    """What it takes to load the same base again.

    Attributes:
        source: folder or hub id as given.
        folder: where its files lie.
        revision: as given.
        quantization, double_quantization, block_size: how linear weights are stored.
        dtype: of dense weights and computation.
        config_sha256: fingerprint of the filtered config.
        placement: where each decoder layer lives.
    """

    source: str
    folder: Path
    revision: str | None
    quantization: str
    double_quantization: bool
    block_size: int
    dtype: torch.dtype
    config_sha256: str
    placement: tuple[Placed, ...]


# Beside the model, not on it: models belong to transformers.
_REMEMBERED: WeakKeyDictionary[nn.Module, BaseInfo] = WeakKeyDictionary()


def remember(model: nn.Module, info: BaseInfo) -> None:
    """Note how `model` was loaded."""
    _REMEMBERED[model] = info


def base_info(model: nn.Module) -> BaseInfo:
    """How `model` was loaded.

    Raises:
        ModelError: `load_base` did not load it.
    """
    info = _REMEMBERED.get(model)
    if info is None:
        raise ModelError(
            f"a {type(model).__name__} that was not loaded by lorakit has no known origin; "
            "possible: models from load_base. Load it with lorakit.load_base."
        )
    return info
