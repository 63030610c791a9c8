"""How a frozen weight can be stored: one file per storage, found by listing this folder.

A storage file defines `QUANTIZATION` (the name the recipe uses), `pack(weight, ...)` for a dense
(O, I) weight, and returns a `FrozenWeight` (see `base/frozen_linear.py`). On the meta device
`pack` gives the storage's exact shapes and bytes without data.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol

import torch

from lorakit.errors import ModelError

if TYPE_CHECKING:
    from lorakit.base.frozen_linear import MovableWeight


class Storage(Protocol):
    """A module of this folder."""

    QUANTIZATION: str

    def pack(
        self, weight: torch.Tensor, *, block_size: int, double_quantization: bool
    ) -> MovableWeight:
        """Store a dense (O, I) weight."""
        ...


def quantizations() -> dict[str, Storage]:
    """{name the recipe uses: module of this folder}."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ]
    return {module.QUANTIZATION: module for module in modules}


def storage(quantization: str) -> Storage:
    """The storage for `quantization`.

    Raises:
        ModelError: no file of this folder provides it.
    """
    known = quantizations()
    if quantization not in known:
        raise ModelError(
            f"quantization {quantization!r} is not built; possible: {', '.join(sorted(known))}. "
            "Change base.quantization."
        )
    return known[quantization]
