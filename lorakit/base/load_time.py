"""How long loading a base takes: found on some of its very tensors, read and stored as they will
be.

What is read from a disk, and not from the memory that an operating system keeps files in, takes the
disk's time, for a sample as for the whole; so the sample is spread over the files.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Collection
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.base.checkpoint import TensorEntry, read_entries, read_tensor
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.meta_model import empty_model
from lorakit.base.packed import PackedWeight

# Tensors that are read, at most; and seconds after which no more are, if there were so many.
MAX_TENSORS = 24
MIN_TENSORS = 4
SECONDS = 2.0
# A load builds the model three times: plain, as it is stored, and the one that is filled.
MODELS_BUILT = 3


def time_loading(
    folder: Path,
    whole: PreTrainedModel,
    *,
    as_stored: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Seconds that loading the base in `folder` will take.

    Args:
        folder: with all of its weights.
        whole: the model as it will be stored, on the meta device, an adapter attached or not.
        as_stored: whether packed weights are in the files; they are read and not made then.
        dtype: of dense weights.
        device: that computes.

    Raises:
        ModelError: files that are broken.
    """
    built = []
    for _ in range(MODELS_BUILT):
        began = time.perf_counter()
        empty_model(whole.config, dtype=dtype)
        built.append(time.perf_counter() - began)
    building = MODELS_BUILT * min(built)
    entries = read_entries(folder).values()
    packed = [] if as_stored else packed_weights(whole)
    num_packed = sum(stored.shape.numel() for stored in packed)
    num_read = sum(_numel(entry) for entry in entries)
    reading, moving, packing = _Rate(), _Rate(), _Rate()
    until = time.monotonic() + SECONDS
    for number, entry in enumerate(_spread(entries), 1):
        tensor = reading.timed(entry.stop - entry.start, partial(read_tensor, entry))
        if not tensor.is_floating_point():
            continue
        if packed and tensor.dim() >= 2:
            matrix = tensor.flatten(0, -2).to(device, dtype)
            # Compiling takes seconds or minutes, once: it must not stand for any other tensor.
            for _ in range(1 if packing.began else 2):
                packing.timed(matrix.numel(), partial(packed[0].pack_like, matrix))
        moving.timed(tensor.numel(), partial(tensor.to, device, dtype, copy=True))
        if number >= MIN_TENSORS and time.monotonic() > until:
            break
    return (
        building
        + reading.seconds_of(sum(entry.stop - entry.start for entry in entries))
        + moving.seconds_of(num_read)
        + packing.seconds_of(num_packed)
    )


def packed_weights(model: PreTrainedModel) -> list[Any]:
    """The packed weights of a model (`PackedWeight`), the largest first; none where they are
    dense."""
    found = [
        module.stored
        for module in model.modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
        and isinstance(module.stored, PackedWeight)
    ]
    return sorted(found, key=lambda stored: -stored.shape.numel())


class _Rate:
    """Seconds of something done piece by piece; the first piece, which may compile and load code,
    is taken for what comes once."""

    def __init__(self) -> None:
        self._times: list[tuple[int, float]] = []

    @property
    def began(self) -> bool:
        return bool(self._times)

    def timed(self, size: int, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self._times.append((size, time.perf_counter() - began))
        return result

    def seconds_of(self, size: float) -> float:
        """Of so much of it."""
        if not self._times:
            return 0.0
        (first_size, first), *others = self._times
        if not others:
            return first * size / first_size
        # The median by size, not the least: each piece is read from the disk once, and some may lie
        # in memory already. What was interrupted is among the slower half.
        by_rate = sorted((seconds / n, n) for n, seconds in others)
        behind = list(accumulate(n for _, n in by_rate))
        rate = by_rate[bisect.bisect_left(behind, behind[-1] / 2)][0]
        return rate * size + max(0.0, first - rate * first_size)


def _spread(entries: Collection[TensorEntry]) -> list[TensorEntry]:
    """Some of the large tensors, evenly over the files."""
    large = sorted(
        (entry for entry in entries if len(entry.shape) >= 2 and _numel(entry)),
        key=lambda entry: (entry.file, entry.start),
    )
    places = np.unique(np.linspace(0, len(large) - 1, MAX_TENSORS).astype(np.int64))
    # The largest of all, such as an embedding, says the least about the others.
    return sorted((large[place] for place in places), key=_numel)


def _numel(entry: TensorEntry) -> int:
    return torch.Size(entry.shape).numel()
