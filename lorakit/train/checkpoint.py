"""A checkpoint on disk: what it holds, how it is written, how every byte of it is checked.

    CHECKPOINTS/step-N/NAME.safetensors   the tensors, in named groups
    CHECKPOINTS/step-N/state.json         everything else of the run's state
    CHECKPOINTS/step-N/manifest.json      written last: size and SHA-256 of every file, the run's
                                          identity, and a SHA-256 of itself

Nothing is pickled. `checkpoint_store.py` has what a run does with several of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lorakit.errors import CheckpointError
from lorakit.files import fsync_path

FORMAT_VERSION = 1
PREFIX = "step-"

_MANIFEST = "manifest.json"
_STATE = "state.json"
_TENSORS = ".safetensors"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after an optimizer step, every byte verified.

    Attributes:
        step: optimizer steps done.
        path: its folder.
        tensors: {group: {name: tensor on the CPU}}.
        state: the rest, as JSON gives it back.
        identity: of the run that wrote it.
    """

    step: int
    path: Path
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    identity: dict[str, Any]


def checkpoint_files(tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> dict[str, bytes]:
    """{name: content} of what a checkpoint holds, its manifest left out.

    Args:
        tensors: {group: {name: tensor on any device}}.
        state: JSON values.
    """
    files = {f"{group}{_TENSORS}": _serialized(named) for group, named in tensors.items()}
    return files | {_STATE: _json_bytes(state)}


def write_checkpoint(
    folder: Path, step: int, files: Mapping[str, bytes], identity: Mapping[str, Any]
) -> None:
    """Write every file, each forced to disk, the manifest last.

    Args:
        folder: an empty one, which nobody reads yet.
        step: optimizer steps done.
        files: of `checkpoint_files`.
        identity: of the run, JSON values.
    """
    for name, content in files.items():
        _write_durably(folder / name, content)
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "micro_step": 0,  # saved between optimizer steps only
        "identity": identity,
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    manifest["sha256"] = _manifest_hash(manifest)
    _write_durably(folder / _MANIFEST, _json_bytes(manifest))


def read_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint, every byte checked against its manifest.

    Raises:
        CheckpointError: a file is missing, surplus or differs; the message names it.
    """
    manifest = _read_manifest(path)
    listed, present = set(manifest["files"]), {p.name for p in path.iterdir()} - {_MANIFEST}
    if listed != present:
        names = ", ".join(sorted(listed ^ present))
        what = "missing" if listed - present else "not in the manifest"
        raise CheckpointError(f"{path} is damaged: {names} {what}.")
    contents = {name: _verified(path / name, facts) for name, facts in manifest["files"].items()}
    return Checkpoint(
        step=manifest["step"],
        path=path,
        tensors={
            name.removesuffix(_TENSORS): safetensors.torch.load(content)
            for name, content in contents.items()
            if name.endswith(_TENSORS)
        },
        state=json.loads(contents[_STATE]),
        identity=manifest["identity"],
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = (path / _MANIFEST).read_bytes()
        manifest = json.loads(content)
        version = manifest["format_version"]
        # The very bytes, so that not even a changed blank goes unnoticed.
        whole = _json_bytes(manifest) == content and manifest["sha256"] == _manifest_hash(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {_MANIFEST} cannot be read.") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}; this lorakit reads {FORMAT_VERSION}."
        )
    if not whole or path.name != f"{PREFIX}{manifest['step']}":
        raise CheckpointError(f"{path} is damaged: {_MANIFEST} is not as it was written.")
    return manifest


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(_json_bytes(rest)).hexdigest()


def _verified(path: Path, facts: Mapping[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.parent} is damaged: {path.name} cannot be read.") from error
    if len(content) != facts["size"]:
        raise CheckpointError(
            f"{path.parent} is damaged: {path.name} has {len(content)} bytes, "
            f"the manifest says {facts['size']}."
        )
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise CheckpointError(
            f"{path.parent} is damaged: the SHA-256 of {path.name} is not the manifest's."
        )
    return content


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
    fsync_path(path)


def _serialized(tensors: Tensors) -> bytes:
    # Copies: views of one flat buffer are no tensors of their own.
    return safetensors.torch.save({n: t.detach().cpu().clone() for n, t in tensors.items()})


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
