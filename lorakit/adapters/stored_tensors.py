"""The files of an adapter in PEFT's format: where they are, and the tensors in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lorakit.adapters.peft_config import FILE_NAME, refuse_special_file
from lorakit.adapters.save import PREFIX, TENSORS_FILE_NAME
from lorakit.errors import AdapterError

MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file: its key, shape and safetensors dtype."""

    key: str
    shape: torch.Size
    dtype: str


def pick(header: Mapping[str, StoredTensor], names: Iterable[str]) -> dict[str, StoredTensor]:
    """Those of `header` that are named."""
    return {name: header[name] for name in names}


def saved_ranks(header: Mapping[str, StoredTensor]) -> dict[str, int]:
    """{module name: rank} of the factors in the file."""
    return {
        name.removeprefix(PREFIX).rpartition(".lora_")[0]: stored.shape[0]
        for name, stored in header.items()
        if name.endswith((".lora_A.weight", ".lora_embedding_A")) and len(stored.shape) == 2
    }


def read_tensors(path: Path, header: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
    """{name in PEFT's current format: tensor} of the adapter in the folder `path`.

    Raises:
        AdapterError: the file cannot be read, or holds NaN or infinite values.
    """
    tensors = {}
    try:
        with safe_open(tensors_path(path), "pt") as file:
            for name, stored in header.items():
                tensors[name] = file.get_tensor(stored.key)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"{path / TENSORS_FILE_NAME} cannot be read: {error}. Restore it."
        ) from error
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AdapterError(
            f"{path / TENSORS_FILE_NAME} holds NaN or infinite values in {len(broken)} tensors, "
            f"such as {broken[0]!r}. Take an earlier checkpoint."
        )
    return tensors


def adapter_folder(folder: Path) -> Path:
    """`folder`, or the one adapter in a folder below it (a run's, or PEFT's named ones).

    Raises:
        AdapterError: there are several, or no such folder.
    """
    if not folder.exists():
        raise AdapterError(
            f"{folder} does not exist; possible: a folder with {FILE_NAME} and "
            f"{TENSORS_FILE_NAME}, or a run's. Check the path."
        )
    if (folder / FILE_NAME).exists() or not folder.is_dir():
        return folder
    below = sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))
    if len(below) > 1:
        raise AdapterError(
            f"{folder} holds {len(below)} adapters: {', '.join(path.name for path in below[:10])}. "
            "Name the folder of one."
        )
    return below[0] if below else folder


def tensors_path(folder: Path) -> Path:
    """The safetensors file of the adapter in `folder`.

    Raises:
        AdapterError: there is none; pickles are never opened.
    """
    path = folder / TENSORS_FILE_NAME
    if not path.exists():
        pickled = folder / "adapter_model.bin"
        found = (
            f"{pickled.name}, a pickle, which can run code" if pickled.exists() else "no tensors"
        )
        raise AdapterError(
            f"{folder} has {found}; possible is {TENSORS_FILE_NAME}. Save it again with PEFT's "
            "save_pretrained(safe_serialization=True)."
        )
    refuse_special_file(path)
    return path


def read_header(path: Path) -> dict[str, StoredTensor]:
    """{name in PEFT's current format: what the file says of it}.

    Raises:
        AdapterError: no whole safetensors file.
    """
    stored: dict[str, StoredTensor] = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                piece = file.get_slice(key)
                name = _current_name(key)
                if name in stored:
                    raise AdapterError(f"{path} holds {key!r} twice, under an old and a new name.")
                stored[name] = StoredTensor(key, torch.Size(piece.get_shape()), piece.get_dtype())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} is no whole safetensors file: {error}. Restore it.") from error
    return stored


def _current_name(key: str) -> str:
    """PEFT's name of today for one that an older version wrote: magnitudes once ended in
    `.weight`.
    """
    return key.removesuffix(".weight") if key.endswith(f".{MAGNITUDE}.weight") else key
