"""Tokens on disk: a folder of flat arrays, memory-mapped, keyed by a hash of what made them.

    KEY/manifest.json   version, counts, SHA-256 of every file, what is to be said about the rows
    KEY/ids.bin         int32, all examples one after the other
    KEY/weights.bin     float32, same layout
    KEY/offsets.bin     int64 (examples + 1,), where each example starts, and the end
    KEY/rows.bin        int64 (examples,), which of the rows that were read it came from

A store is written beside its final place, flushed to disk and renamed, so that it is whole or
absent. One that is not what its manifest says is built again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.data.examples import Example, fingerprint_of
from lorakit.files import STAGING_PREFIX, staged_folder

VERSION = 1
_FILES = {
    "ids.bin": np.int32,
    "weights.bin": np.float32,
    "offsets.bin": np.int64,
    "rows.bin": np.int64,
}


class TokenStore:
    """A memory-mapped ExampleSet.

    Attributes:
        lengths, trained_lengths: int64 (examples,).
        fingerprint: hex SHA-256 over the examples.
        rows: int64 (examples,), positions of the kept rows among those read.
        extra: what `write_store` was given.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.fingerprint: str = manifest["fingerprint"]
        self.extra: dict[str, Any] = manifest["extra"]
        self._ids = _mapped(folder / "ids.bin", np.int32)
        self._weights = _mapped(folder / "weights.bin", np.float32)
        self._offsets = np.fromfile(folder / "offsets.bin", dtype=np.int64)
        self.rows = np.fromfile(folder / "rows.bin", dtype=np.int64)
        self.lengths = np.diff(self._offsets)
        counts = np.concatenate([[0], np.cumsum(self._weights != 0, dtype=np.int64)])
        self.trained_lengths = np.diff(counts[self._offsets])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, end = self._offsets[:-1][index], self._offsets[1:][index]
        return Example(np.array(self._ids[start:end]), np.array(self._weights[start:end]))


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
    place = Path(folder) / key
    broken = place.with_name(f"{STAGING_PREFIX}{key}-{uuid.uuid4().hex}")
    if place.exists():  # broken, or made by another process in the meantime
        place.rename(broken)
        shutil.rmtree(broken)
    with staged_folder(place) as staging:
        _write_arrays(staging, examples, rows)
        manifest = {
            "version": VERSION,
            "key": key,
            "fingerprint": fingerprint_of(examples),
            "extra": extra,
            "sha256": {name: _sha256(staging / name) for name in _FILES},
        }
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return TokenStore(place, manifest)


def _write_arrays(folder: Path, examples: Sequence[Example], rows: Sequence[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum([example.num_tokens for example in examples])])
    parts = {
        "ids.bin": [example.input_ids for example in examples],
        "weights.bin": [example.loss_weights for example in examples],
        "offsets.bin": [offsets],
        "rows.bin": [np.asarray(rows)],
    }
    for name, dtype in _FILES.items():
        with (folder / name).open("wb") as file:
            for part in parts[name]:
                file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


def _manifest(place: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((place / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        return None
    return manifest


def _mapped(path: Path, dtype: type) -> np.ndarray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
