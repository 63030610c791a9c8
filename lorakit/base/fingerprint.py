"""Telling frozen weights apart without reading them whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from lorakit.base.checkpoint import TensorEntry, read_entries
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear

SAMPLED_VALUES = 4096  # about so many of every tensor
# Of a tensor in a file so many pieces of so many bytes: whole pages are read anyway.
SAMPLED_PIECES, PIECE_BYTES = 32, 4096


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


def checkpoint_sha256(folder: Path) -> str:
    """Hex SHA-256 over name, dtype, shape and bytes spread over every tensor of a model folder.

    The same however the tensors are spread over files. Tells two checkpoints apart without
    reading them whole: a change of a few rows of a large tensor may be missed.

    Raises:
        ModelError: the files are missing or broken.
    """
    digest = hashlib.sha256()
    for name, entry in sorted(read_entries(folder).items()):
        digest.update(f"{name} {entry.dtype} {entry.shape}".encode())
        for piece in _pieces(entry):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(entry: TensorEntry) -> Iterator[bytes]:
    size = entry.stop - entry.start
    with entry.file.open("rb") as file:
        if size <= SAMPLED_PIECES * PIECE_BYTES:
            file.seek(entry.start)
            yield file.read(size)
            return
        for index in range(SAMPLED_PIECES):
            # From the first bytes to the last ones.
            file.seek(entry.start + (size - PIECE_BYTES) * index // (SAMPLED_PIECES - 1))
            yield file.read(PIECE_BYTES)
