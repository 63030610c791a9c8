"""The safetensors files of a model folder: checked before anything is allocated, read one by one.

Everything here treats the files as untrusted: names may not leave the folder, only regular files
are opened, and every header is checked against the file it describes.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from lorakit.base.dtypes import TORCH_DTYPES
from lorakit.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 16 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_TENSORS_PER_FILE = 65_536
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor of a checkpoint lies.

    Attributes:
        name: in the checkpoint.
        file: the safetensors file.
        dtype: safetensors' name, such as BF16.
        shape: of the tensor.
        start, stop: byte range in the file.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class LazyTensor:
    """A tensor that is read from its file when transformers' loader indexes it."""

    def __init__(self, piece: Any, on_read: Callable[[], None]) -> None:
        self._piece = piece
        self._on_read = on_read

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor = self._piece[index]
        self._on_read()
        return tensor

    def get_dtype(self) -> str:
        """safetensors' name of the dtype."""
        return self._piece.get_dtype()

    def get_shape(self) -> list[int]:
        """Shape in the file."""
        return self._piece.get_shape()


def read_entries(folder: Path) -> dict[str, TensorEntry]:
    """All tensors of a model folder by name.

    Raises:
        ModelError: no safetensors, a shard outside the folder or missing, a broken or truncated
            file, an index that does not agree with the files.
    """
    if (folder / WEIGHTS).exists():
        return read_header(_regular_file(folder, WEIGHTS))
    if not (folder / INDEX).exists():
        raise _no_safetensors(folder)
    weight_map = _read_index(folder)
    entries: dict[str, TensorEntry] = {}
    for shard in sorted(set(weight_map.values())):
        for name, entry in read_header(_regular_file(folder, shard)).items():
            if weight_map.get(name) == shard:
                entries[name] = entry
    lost = sorted(weight_map.keys() - entries.keys())
    if lost:
        raise ModelError(
            f"{str(folder / INDEX)!r} lists {len(lost)} tensors that their shards do not hold, "
            f"such as {lost[0]!r} in {weight_map[lost[0]]!r}; possible: an index that agrees with "
            "its shards. Download the model again."
        )
    return entries


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that the weights of a model folder are (to be) in.

    Raises:
        ModelError: an index that is broken or names files outside the folder.
    """
    if (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
        return sorted(set(_read_index(folder).values()))
    return [WEIGHTS]


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Check one safetensors file's header and return its tensors.

    Raises:
        ModelError: not safetensors, truncated, or with tensors that overlap or lie outside the
            file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length_bytes = stream.read(8)
        header_bytes = int.from_bytes(length_bytes, "little")
        if len(length_bytes) < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise _broken(file, f"its header claims {header_bytes} bytes of a file of {size} bytes")
        raw = stream.read(header_bytes)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS_PER_FILE:
        raise _broken(file, f"it lists {len(header)} tensors; possible: {MAX_TENSORS_PER_FILE}")
    entries = {
        name: _entry(name, value, file, 8 + header_bytes, size) for name, value in header.items()
    }
    _check_cover(
        sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)),
        file,
        8 + header_bytes,
        size,
    )
    return entries


def read_tensor(entry: TensorEntry) -> torch.Tensor:
    """One tensor of a checked header, read and not mapped.

    Raises:
        ModelError: the file has become shorter.
    """
    count = entry.stop - entry.start
    raw = np.fromfile(entry.file, np.uint8, count, offset=entry.start)
    if raw.size != count:
        raise _broken(entry.file, f"the data of {entry.name!r} ends early")
    return torch.from_numpy(raw).view(TORCH_DTYPES[entry.dtype]).view(entry.shape)


@contextmanager
def lazy_tensors(
    entries: dict[str, TensorEntry], on_read: Callable[[], None]
) -> Iterator[dict[str, LazyTensor]]:
    """The tensors by name, each read from its file (not memory-mapped) when it is needed.

    Reading instead of mapping keeps the pages of the file out of the process: peak memory is what
    was loaded plus one tensor.
    """
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(safe_open(file, framework="pt", backend="pread"))
            for file in sorted({entry.file for entry in entries.values()})
        }
        yield {
            name: LazyTensor(files[entry.file].get_slice(name), on_read)
            for name, entry in entries.items()
        }


def _entry(name: str, value: Any, file: Path, data_start: int, size: int) -> TensorEntry:
    try:
        dtype, shape = value["dtype"], value["shape"]
        begin, end = value["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _broken(file, f"the entry of {name!r} lacks dtype, shape or data_offsets") from error
    if not isinstance(dtype, str) or dtype not in TORCH_DTYPES:
        raise _broken(file, f"{name!r} has the dtype {dtype!r}, which is not known")
    numbers = [begin, end, *shape] if isinstance(shape, list) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _broken(file, f"{name!r} has a shape or offsets that are not counts")
    if end - begin != math.prod(shape) * TORCH_DTYPES[dtype].itemsize:
        raise _broken(
            file, f"{name!r} of shape {shape} and dtype {dtype} has {end - begin} bytes of data"
        )
    if data_start + end > size:
        raise _broken(file, f"{name!r} ends {data_start + end - size} bytes after the file does")
    return TensorEntry(name, file, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_cover(entries: list[TensorEntry], file: Path, data_start: int, size: int) -> None:
    position = data_start
    for entry in entries:
        if entry.start != position:
            raise _broken(
                file, f"the data of {entry.name!r} starts at byte {entry.start}, not {position}"
            )
        position = entry.stop
    if position != size:
        raise _broken(file, f"{size - position} bytes after the last tensor belong to none")


def _read_index(folder: Path) -> dict[str, str]:
    path = _regular_file(folder, INDEX)
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise _broken(path, f"it has {path.stat().st_size} bytes; possible: {MAX_INDEX_BYTES}")
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _broken(path, f"it is not JSON with a `weight_map` ({error})") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise _broken(path, "its `weight_map` is not an object with entries")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_basename(shard):
            raise ModelError(
                f"{str(path)!r} puts {name!r} into the file {shard!r}; possible: safetensors files "
                "inside the model's folder, by name without a path. Do not use this model, or "
                "repair its index."
            )
    return weight_map


def _is_basename(shard: str) -> bool:
    return (
        shard.endswith(".safetensors")
        and Path(shard).name == shard
        and not set(shard) & set("/\\\0")
    )


def _regular_file(folder: Path, name: str) -> Path:
    path = folder / name
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ModelError(
            f"{name!r} is missing in {str(folder)!r} ({error.strerror}); possible: all files that "
            "the model's index names. Download the model again."
        ) from error
    if not stat.S_ISREG(mode):
        raise ModelError(
            f"{str(path)!r} is not a regular file; possible: safetensors files. Download the model "
            "again."
        )
    return path


def _no_safetensors(folder: Path) -> ModelError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    given = f"only {', '.join(pickles[:3])}" if pickles else "no weights"
    return ModelError(
        f"{str(folder)!r} holds {given}; possible: {WEIGHTS} or shards named by {INDEX} (pickled "
        "weights can run code and are never opened). Use a safetensors version of the model."
    )


def _broken(file: Path, fault: str) -> ModelError:
    return ModelError(
        f"{str(file)!r} is broken: {fault}. Possible: a whole safetensors file. Download it again."
    )
