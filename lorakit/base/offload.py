"""Frozen weights that live in host memory or on disk and come to the device for each product."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from lorakit.base.checkpoint import TensorEntry, read_header
from lorakit.base.dtypes import TORCH_DTYPES
from lorakit.base.frozen_linear import FrozenWeight, MovableWeight
from lorakit.base.storages.dense import DenseWeight

DEVICE, HOST, DISK = "device", "cpu", "disk"  # where a weight lives


class HostWeight(nn.Module):
    """A storage that stays in host memory: `model.to(device)` neither moves nor casts it."""

    def __init__(self, stored: MovableWeight) -> None:
        super().__init__()
        # In a tuple, so that torch does not register it as a submodule and move it.
        self._held = (stored,)

    @property
    def shape(self) -> torch.Size:
        return self._held[0].shape

    @property
    def dtype(self) -> torch.dtype:
        return self._held[0].dtype

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight (O, I): what is stored crosses to the device, not the dense weight."""
        return self._held[0].dequantize(dtype, device)

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """One part along the first dimension: nothing else crosses to the device."""
        return self._held[0].dequantize_part(index, dtype, device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored tensors, in host memory."""
        return self._held[0].tensors()

    def extra_repr(self) -> str:
        return f"in host memory: {self._held[0]!r}"


@dataclass(frozen=True)
class DiskTensor:
    """Bytes of one tensor in a file."""

    file: Path
    start: int
    stop: int
    dtype: torch.dtype
    shape: torch.Size

    @staticmethod
    def of(entry: TensorEntry) -> DiskTensor:
        """The tensor that a safetensors header describes."""
        dtype = TORCH_DTYPES[entry.dtype]
        return DiskTensor(entry.file, entry.start, entry.stop, dtype, torch.Size(entry.shape))

    def read(self) -> torch.Tensor:
        """The tensor, mapped into memory: its pages leave with it."""
        # Copy-on-write, because torch warns about memory that it could not write to.
        raw: np.ndarray = np.memmap(
            self.file, np.uint8, mode="c", offset=self.start, shape=(self.stop - self.start,)
        )
        if self.start % self.dtype.itemsize:
            raw = np.array(raw)  # torch reads elements at their natural alignment only
        return torch.from_numpy(raw).view(self.dtype).view(self.shape)


class DiskWeight(nn.Module):
    """A storage whose tensors are mapped from a file whenever the weight is asked for."""

    def __init__(self, empty: MovableWeight, places: dict[str, DiskTensor]) -> None:
        super().__init__()
        self._empty = (empty,)  # on the meta device; see HostWeight for the tuple
        self.places = places

    @property
    def shape(self) -> torch.Size:
        return self._empty[0].shape

    @property
    def dtype(self) -> torch.dtype:
        return self._empty[0].dtype

    def dequantize(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """The dense weight (O, I), read now."""
        return self._empty[0].with_tensors(self.tensors()).dequantize(dtype, device)

    def dequantize_part(
        self, index: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """One part along the first dimension, read now: the others stay on disk."""
        stored = self._empty[0].with_tensors(self.tensors())
        return stored.dequantize_part(index, dtype, device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored tensors, mapped from disk."""
        return {name: place.read() for name, place in self.places.items()}

    def extra_repr(self) -> str:
        files = ", ".join(sorted({str(place.file) for place in self.places.values()}))
        return f"on disk in {files}: {self._empty[0]!r}"


def storage_of(stored: FrozenWeight) -> MovableWeight:
    """The storage itself, wherever its tensors lie; on the meta device for one on disk."""
    if isinstance(stored, HostWeight):
        return stored._held[0]
    return stored._empty[0] if isinstance(stored, DiskWeight) else cast(MovableWeight, stored)


def to_disk(stored: MovableWeight, file: Path) -> DiskWeight:
    """Write a storage's tensors to a new safetensors file and leave them there."""
    tensors = {name: tensor.contiguous() for name, tensor in stored.tensors().items()}
    save_file(tensors, file)
    places = {name: DiskTensor.of(entry) for name, entry in read_header(file).items()}
    return DiskWeight(_emptied(stored), places)


def from_checkpoint(weight: torch.Tensor, entry: TensorEntry, *, transposed: bool) -> DiskWeight:
    """A dense weight that stays in its checkpoint file; `weight` gives shape and dtype only."""
    empty = DenseWeight(torch.empty_like(weight, device="meta"), transposed=transposed)
    return DiskWeight(empty, {"weight": DiskTensor.of(entry)})


def _emptied(stored: MovableWeight) -> MovableWeight:
    return stored.with_tensors({name: t.to("meta") for name, t in stored.tensors().items()})
