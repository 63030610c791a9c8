"""Telling frozen weights apart without reading them whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear

SAMPLED_VALUES = 4096  # about so many of every tensor


def update_digest(digest: Any, name: str, tensor: torch.Tensor) -> None:
    """Add a tensor's name, shape, dtype and values spread over it to a hashlib digest."""
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    if tensor.numel():
        # An odd stride: one that divides the row length would read a single column.
        stride = tensor.numel() // SAMPLED_VALUES | 1
        values = tensor.detach().flatten()[::stride].contiguous().cpu()
        digest.update(values.view(torch.uint8).numpy().tobytes())


def stored_tensors(
    name: str, layer: FrozenLinear | FrozenExperts
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of a frozen layer's weight, the same wherever it lies."""
    tensors = layer.stored.tensors()
    is_conv1d = isinstance(layer, FrozenLinear) and layer.fan_in_fan_out
    if is_conv1d and list(tensors) == ["weight"]:
        # A dense Conv1D lies transposed in one place and not in another.
        tensors = {"weight": layer.weight}
    for part, tensor in tensors.items():
        yield f"{name}.{part}", tensor


def sampled_sha256(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hex SHA-256 over (name, tensor) pairs, in order, as `update_digest` reads them."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        update_digest(digest, name, tensor)
    return digest.hexdigest()
