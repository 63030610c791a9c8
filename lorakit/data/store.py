"""Tokens on disk: a folder of flat arrays, read as they are asked for.

KEY is a hash of what made them:

    KEY/manifest.json   version, counts, SHA-256 of every file, what is to be said about the rows
    KEY/ids.bin         int32, all examples one after the other
    KEY/weights.bin     float32, same layout
    KEY/offsets.bin     int64 (examples + 1,), where each example starts, and the end
    KEY/trained.bin     int64 (examples,), trained tokens of each
    KEY/rows.bin        int64 (examples,), which of the rows that were read it came from

A store is written beside its final place as its examples come, flushed to disk and renamed, so that
it is whole or absent. One that is not what its manifest says is built again. What made the examples
may be known only when the last one is written: the key is given at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lorakit.data.examples import Example, fingerprint_from
from lorakit.files import move_into_place, staging_folder

VERSION = 3
_FILES = {
    "ids.bin": np.int32,
    "weights.bin": np.float32,
    "offsets.bin": np.int64,
    "trained.bin": np.int64,
    "rows.bin": np.int64,
}
_BUFFER_BYTES = 1 << 20
# Examples that are hashed and written together: calls for each by itself take half the time.
_WAITING_EXAMPLES = 256
_WAITING_TOKENS = 1 << 18


class TokenStore:
    """An ExampleSet whose tokens stay on disk.

    Attributes:
        lengths, trained_lengths: int64 (examples,).
        fingerprint: hex SHA-256 over the examples.
        rows: int64 (examples,), positions of the kept rows among those read.
        extra: what `write_store` was given.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.fingerprint: str = manifest["fingerprint"]
        self.extra: dict[str, Any] = manifest["extra"]
        self._ids = _OnDisk(folder / "ids.bin", np.int32)
        self._weights = _OnDisk(folder / "weights.bin", np.float32)
        self._offsets = np.fromfile(folder / "offsets.bin", dtype=np.int64)
        self.rows = np.fromfile(folder / "rows.bin", dtype=np.int64)
        self.lengths = np.diff(self._offsets)
        self.trained_lengths = np.fromfile(folder / "trained.bin", dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, end = int(self._offsets[:-1][index]), int(self._offsets[1:][index])
        return Example(self._ids.part(start, end), self._weights.part(start, end))

    @property
    def held_bytes(self) -> int:
        """Bytes of memory: where examples lie, and how long they are."""
        arrays = self._offsets, self.rows, self.lengths, self.trained_lengths
        return sum(array.nbytes for array in arrays)


class _OnDisk:
    """A flat array in a file.

    Not memory-mapped: every page that was looked at would count as this process's memory, after
    an epoch the whole file.
    """

    def __init__(self, path: Path, dtype: type) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def part(self, start: int, stop: int) -> np.ndarray:
        """The elements from `start` to `stop`, read anew."""
        values = np.empty(stop - start, dtype=self._dtype)
        if values.nbytes:
            got = os.preadv(self._file, [values.data.cast("B")], start * self._dtype.itemsize)
            if got != values.nbytes:
                raise OSError(f"{self._path}: cut short while it was in use")
        return values


def open_store(folder: str | Path, key: str) -> TokenStore | None:
    """The store of this key, or None if there is none that is whole."""
    place = Path(folder) / key
    manifest = _manifest(place)
    if manifest is None or manifest.get("key") != key:
        return None
    hashes = manifest.get("sha256", {})
    if set(hashes) != set(_FILES):
        return None
    for name, expected in hashes.items():
        path = place / name
        if not path.is_file() or _sha256(path) != expected:
            return None
    return TokenStore(place, manifest)


def write_store(
    folder: str | Path,
    key: str,
    examples: Sequence[Example],
    rows: Sequence[int],
    extra: dict[str, Any],
) -> TokenStore:
    """Write a store and open it.

    Args:
        folder: where stores live; made if absent.
        key: hex SHA-256 of what made the examples.
        examples: the examples.
        rows: which of the rows read each came from.
        extra: JSON values kept with it.
    """
    with store_writer(folder, key) as writer:
        for example, row in zip(examples, rows, strict=True):
            writer.add(example, row)
        return writer.finish(key, extra)


class StoreWriter:
    """Writes the arrays of a store as examples come; made by `store_writer`."""

    def __init__(self, folder: Path, staging: Path, files: Mapping[str, IO[bytes]]) -> None:
        self._folder, self._staging, self._files = folder, staging, files
        self._hashes = {name: hashlib.sha256() for name in _FILES}
        self._offsets, self._trained, self._rows = array("q", [0]), array("q"), array("q")
        self._waiting: list[Example] = []
        self._written = 0  # tokens

    def add(self, example: Example, row: int) -> None:
        """Write the next example, which came from row `row` of those read."""
        self._waiting.append(example)
        self._offsets.append(self._offsets[-1] + example.num_tokens)
        self._trained.append(example.num_trained_tokens)
        self._rows.append(row)
        tokens = self._offsets[-1] - self._written
        if len(self._waiting) >= _WAITING_EXAMPLES or tokens >= _WAITING_TOKENS:
            self._write_waiting()

    def finish(self, key: str, extra: dict[str, Any]) -> TokenStore:
        """Put the store in its place, or take the one that is there already.

        Args:
            key: hex SHA-256 of what made the examples.
            extra: JSON values to be kept with them.
        """
        self._write_waiting()
        offsets = np.array(self._offsets)
        self._write("offsets.bin", offsets)
        self._write("trained.bin", np.array(self._trained))
        self._write("rows.bin", np.array(self._rows))
        for file in self._files.values():
            file.close()
        known = open_store(self._folder, key)
        if known is not None:
            return known
        hashes = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        manifest = {
            "version": VERSION,
            "key": key,
            "fingerprint": fingerprint_from(
                np.diff(offsets), hashes["ids.bin"], hashes["weights.bin"]
            ),
            "extra": extra,
            "sha256": hashes,
        }
        text = json.dumps(manifest, indent=1)
        (self._staging / "manifest.json").write_text(text, encoding="utf-8")
        place = self._folder / key
        if place.exists():  # broken
            aside = self._staging.with_name(f"{self._staging.name}-broken")
            place.rename(aside)
            shutil.rmtree(aside)
        move_into_place(self._staging, place)
        return TokenStore(place, manifest)

    def _write_waiting(self) -> None:
        if self._waiting:
            self._write("ids.bin", np.concatenate([one.input_ids for one in self._waiting]))
            self._write("weights.bin", np.concatenate([one.loss_weights for one in self._waiting]))
            self._waiting, self._written = [], self._offsets[-1]

    def _write(self, name: str, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, dtype=_FILES[name]).data
        self._hashes[name].update(data)
        self._files[name].write(data)


@contextmanager
def store_writer(folder: str | Path, origin: str) -> Iterator[StoreWriter]:
    """A writer whose store is in its place once it is finished; else nothing is left of it.

    Args:
        folder: where stores live; made if absent.
        origin: what the examples come from, as far as it is known; what killed writers of the same
            left is removed.
    """
    with staging_folder(Path(folder).resolve() / origin) as staging, ExitStack() as stack:
        files = {
            name: stack.enter_context((staging / name).open("wb", buffering=_BUFFER_BYTES))
            for name in _FILES
        }
        yield StoreWriter(staging.parent, staging, files)


def _manifest(place: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((place / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        return None
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
