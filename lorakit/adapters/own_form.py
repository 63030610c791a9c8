"""An adapter whose init is part of its base, unconverted: a folder beside the plain one.

    ADAPTER/adapter_config.json, adapter_model.safetensors   the plain form, for every engine
    ADAPTER/unconverted/adapter_model.safetensors            A and B (and magnitudes) as they train
    ADAPTER/unconverted/start.safetensors                    the start, and what was subtracted
    ADAPTER/unconverted/lorakit_adapter.json                 config, init, base, SHA-256 of files

`load_adapter` takes this form where it is there: the very model that was trained, on the base it
was trained on. PEFT does not find it, because it has no adapter_config.json.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lorakit.adapters.attached import StartError
from lorakit.adapters.contract import Start
from lorakit.adapters.low_rank import PARTS, start_from
from lorakit.adapters.start_base import StartBase
from lorakit.adapters.starting import parts_of
from lorakit.errors import AdapterError
from lorakit.files import write_atomically
from lorakit.recipe import EvaConfig, LoftqConfig

FOLDER, FILE = "unconverted", "lorakit_adapter.json"
TENSORS, STARTS = "adapter_model.safetensors", "start.safetensors"
MAX_FILE_BYTES = 16 << 20
FORMAT_VERSION = 2
# Beside a plain form that holds the correction of a quantized base (loftq): without it nothing
# there would keep two such adapters from being added. (Two keys of safetensors' metadata come in
# any order, and an adapter's bytes are to be the same each time.)
MARK = "corrects_base.txt"
MARK_TEXT = """The factors hold a correction of the quantized base beside what was trained: adding
two such adapters would correct it twice. lorakit looks for this file.
"""


class OwnForm(BaseModel):
    """The contents of lorakit_adapter.json.

    Attributes:
        init_lora_weights, loftq_config, eva_config: of the adapter.
        adapter_config: PEFT's fields for A and B as they are.
        base: that the start is a part of.
        start_errors: {module name: its StartError} as measured.
        sha256: {file, relative to the adapter's folder: hex SHA-256}.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    init_lora_weights: str
    loftq_config: LoftqConfig | None = None
    eva_config: EvaConfig | None = None
    adapter_config: dict[str, Any]
    base: StartBase
    start_errors: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    sha256: dict[str, str]

    @property
    def init_fields(self) -> dict[str, object]:
        """What a LoraConfig says of the init."""
        names = ("init_lora_weights", "loftq_config", "eva_config")
        return {name: getattr(self, name) for name in names}


def forget(adapter: Path) -> None:
    """Make the unconverted form in the folder `adapter` unreadable, before anything else changes
    there.
    """
    (adapter / FOLDER / FILE).unlink(missing_ok=True)


def remove(adapter: Path) -> None:
    """Remove the unconverted form in the folder `adapter`, if there is one."""
    if (adapter / FOLDER).is_dir():
        shutil.rmtree(adapter / FOLDER)


def mark(adapter: Path, *, corrects_base: bool) -> None:
    """Say beside the plain form in the folder `adapter` whether it corrects a quantized base."""
    if corrects_base:
        write_atomically(adapter / MARK, MARK_TEXT.encode())
    else:
        (adapter / MARK).unlink(missing_ok=True)


def write_tensors(
    adapter: Path, tensors: Mapping[str, torch.Tensor], starts: Mapping[str, torch.Tensor]
) -> None:
    """Write the tensors of the unconverted form; it loads once `write` was called."""
    (adapter / FOLDER).mkdir(exist_ok=True)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in starts.items()}
    for name, content in ((TENSORS, dict(tensors)), (STARTS, kept)):
        write_atomically(adapter / FOLDER / name, save(content, metadata={"format": "pt"}))


def write(
    adapter: Path,
    adapter_config: Mapping[str, object],
    init_fields: Mapping[str, Any],
    base: StartBase,
    start_errors: Mapping[str, StartError],
) -> None:
    """Write the file that makes the unconverted form whole, the last but the plain config."""
    form = OwnForm(
        **init_fields,
        adapter_config=dict(adapter_config),
        base=base,
        start_errors={name: vars(error) for name, error in start_errors.items()},
        sha256={name: _sha256(adapter / name) for name in _covered()},
    )
    text = json.dumps(form.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
    write_atomically(adapter / FOLDER / FILE, text.encode())


def find(folder: Path) -> Path | None:
    """The adapter's folder, where `folder` is one with an unconverted form, or that form itself."""
    if (folder / FILE).is_file():
        return folder.absolute().parent
    return folder if (folder / FOLDER).is_dir() else None


def read(adapter: Path) -> OwnForm:
    """Read and check the unconverted form in the folder `adapter`.

    Raises:
        AdapterError: it is not whole, or the plain form beside it is another adapter's.
    """
    file = adapter / FOLDER / FILE
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise AdapterError(f"{file} is larger than {MAX_FILE_BYTES} bytes. Restore it.")
        form = OwnForm.model_validate_json(file.read_bytes())
        different = [
            name for name in _covered() if _sha256(adapter / name) != form.sha256.get(name)
        ]
    except (OSError, ValidationError) as error:
        raise AdapterError(
            f"{adapter / FOLDER} is not whole ({_first_line(error)}); possible: the folder as "
            "save_adapter writes it. Save the adapter again, or remove that folder to load the "
            "plain form beside it."
        ) from error
    if form.format_version != FORMAT_VERSION:
        raise AdapterError(
            f"{file} has format version {form.format_version}; this lorakit reads {FORMAT_VERSION}."
        )
    if different:
        raise AdapterError(
            f"{', '.join(different)} in {adapter} changed after {file.name} was written; possible: "
            f"the folder as save_adapter writes it. Save it again, or remove {adapter / FOLDER} to "
            "load the plain form."
        )
    return form


def read_starts(adapter: Path, shapes: Mapping[str, tuple[int, int, int]]) -> dict[str, Start]:
    """{module name: its start}, of the modules that have one.

    Args:
        shapes: {module name: (rank, in_features, out_features)} of all adapted modules.

    Raises:
        AdapterError: the file is broken, or holds other modules, shapes, dtypes or values.
    """
    path = adapter / FOLDER / STARTS
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            _check_shapes(path, found, shapes)
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} is no whole safetensors file: {error}. Restore it.") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise AdapterError(
                f"{path} holds {name!r} as {tensor.dtype} or with NaN or infinite values; possible "
                "are finite float32 values. Restore it."
            )
    parts = {name: parts_of(name, tensors) for name in shapes}
    return {name: start_from(given) for name, given in parts.items() if given}


def _check_shapes(
    path: Path,
    found: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, int, int]],
) -> None:
    expected = {}
    for name, (r, in_features, out_features) in shapes.items():
        for part in PARTS:
            expected[f"{name}.{part}"] = (
                (r, in_features) if part.endswith("A") else (out_features, r)
            )
    wrong = [name for name, shape in found.items() if expected.get(name) != shape]
    partner = {"A": "B", "B": "A"}
    wrong += [name for name in found if f"{name[:-1]}{partner[name[-1]]}" not in found]
    if wrong:
        raise AdapterError(
            f"{path} does not fit this adapter: {', '.join(sorted(wrong)[:5])} are not expected in "
            "these shapes, or lack their partner. Restore it."
        )


def _covered() -> tuple[str, ...]:
    return TENSORS, f"{FOLDER}/{TENSORS}", f"{FOLDER}/{STARTS}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
