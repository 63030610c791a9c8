"""Writing a model folder whose linear weights are packed as bitsandbytes packs them, tensor by
tensor: transformers with bitsandbytes loads it, and `load_base(..., quantization="checkpoint")`.

Which layers are packed is decided by both sides: those that lorakit packs (output head, expert
routers and embeddings stay as they are) among those that transformers replaces by bitsandbytes'
layers; all other linear layers are named in `llm_int8_skip_modules`, so that transformers leaves
out exactly what was left out here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit.base import hub, quantization_config
from lorakit.base.as_stored import stored_weights
from lorakit.base.checkpoint import read_entries
from lorakit.base.code_values import refuse_marked, refuse_on_codes
from lorakit.base.config import as_json, read_config
from lorakit.base.convertible import experts_left, layers_left
from lorakit.base.meta_model import plain_model
from lorakit.base.model_folder import (
    copy_small_files,
    shard_bytes,
    write_weights,
)
from lorakit.base.packer import (
    DTYPES,
    Packer,
    PackSettings,
    Replacement,
    digest_of,
    rows_to_write,
)
from lorakit.errors import ModelError, VerificationError
from lorakit.files import new_folder, staged_folder, write_json

__all__ = ["PackReport", "PackSettings", "Replacement", "quantize_folder", "write_quantized"]

logger = logging.getLogger(__name__)

QUANTIZATIONS = ("nf4", "fp4", "int8")
QUANT_STORAGES = quantization_config.QUANT_STORAGES
# A packed model of linear layers is at most about half as large, even in int8.
HARDLY_SMALLER = 0.8


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        errors: {path of a packed layer: ||packed - weight|| / ||weight||}.
        beside_codes: {path of a packed layer that lay on the values of codes, or close by: how far
            from them}; packing rounds that away.
        left: {path of a linear layer, or of experts, that is not packed: why}.
        bytes_before, bytes_after: of all tensors of the base, and of those written.
    """

    errors: dict[str, float]
    beside_codes: dict[str, float]
    left: dict[str, str]
    bytes_before: int
    bytes_after: int

    @property
    def is_hardly_smaller(self) -> bool:
        """Whether most of the bytes are those of weights that could not be packed."""
        return self.bytes_after > HARDLY_SMALLER * self.bytes_before

    @property
    def mean_error(self) -> float:
        """The mean over the packed layers."""
        return sum(self.errors.values()) / len(self.errors)


def quantize_folder(
    model: str | Path,
    output: str | Path,
    settings: PackSettings,
    *,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    allow_lost_adapter: bool = False,
) -> PackReport:
    """Write a quantized copy of a model, and check it by reading it as a base.

    Args:
        model: a folder or hub id whose weights are not quantized.
        output: appears by one rename once everything is written and checked; may not hold
            anything.
        settings: how weights are packed.
        max_shard_size: bytes of one file, and about what is held in memory.
        revision: of a hub id.
        allow_lost_adapter: pack weights that lie on the values of codes too, such as those of a
            faithful merge into a packed base, which lose the adapter.

    Returns:
        What was written.

    Raises:
        InputError: the inputs do not fit each other, `output` is in use, or the weights would lose
            what is merged into them; nothing is written.
        RunError: the disk refuses.
        VerificationError: what was written reads back as something else; it is removed again.
    """
    final = new_folder(Path(output))
    max_bytes = shard_bytes(max_shard_size)
    folder = hub.resolve(model, revision, given_as="the argument MODEL")
    if not allow_lost_adapter:
        refuse_marked(folder)
    with staged_folder(final) as staging:
        report = write_quantized(folder, staging, settings, max_bytes=max_bytes)
        if not allow_lost_adapter:
            refuse_on_codes(report.beside_codes, len(report.errors))
        copy_small_files(folder, staging)
    return report


def write_quantized(
    folder: Path,
    target: Path,
    settings: PackSettings,
    *,
    max_bytes: int,
    replaced: Mapping[str, Replacement] | None = None,
    config: dict[str, Any] | None = None,
) -> PackReport:
    """Write weights and config.json of a quantized copy into a folder, and read them back.

    Args:
        folder: of the unquantized base.
        target: an empty folder, which the caller puts into place or removes.
        settings: how weights are packed.
        max_bytes: of one file.
        replaced: {name of a tensor: what is written instead}; names that the checkpoint does not
            have are added.
        config: values instead of the base's config.json.

    Returns:
        What was written.

    Raises:
        ModelError: settings that are not possible, or a base that is quantized already or that
            bitsandbytes packs no layer of.
        RunError, VerificationError: as in `quantize_folder`.
    """
    _check_settings(settings)
    values = read_config(folder / "config.json") if config is None else dict(config)
    _refuse_quantized(values, folder)
    plain = plain_model(folder, settings.dtype or torch.float32)
    entries = read_entries(folder)
    rows = rows_to_write(plain, entries, settings, replaced or {})
    skipped = layers_left(plain, {row.layer for row in rows if row.layer is not None})
    packer = Packer(settings)
    bytes_after = write_weights([packer.group(row) for row in rows], target, max_bytes, "packing")
    values[quantization_config.KEY] = quantization_config.made(
        settings.quantization,
        double_quantization=settings.double_quantization,
        quant_storage=settings.quant_storage,
        compute_dtype=next(row.dtype for row in rows if row.layer is not None),
        skip_modules=sorted(skipped),
    )
    if settings.dtype is not None:
        values.pop("torch_dtype", None)
        values["dtype"] = str(settings.dtype).removeprefix("torch.")
    write_json(target / "config.json", as_json(values))
    _verify(target, packer.digests)
    bytes_before = sum(entry.stop - entry.start for entry in entries.values())
    left = skipped | experts_left(plain)
    report = PackReport(packer.errors, packer.beside_codes, left, bytes_before, bytes_after)
    if report.is_hardly_smaller:
        logger.warning(
            "packed, the model is hardly smaller: %d of %d bytes; %d layers stay as they are "
            "(experts are packed while loading only: base.quantization nf4)",
            bytes_after,
            bytes_before,
            len(left),
        )
    return report


def _check_settings(settings: PackSettings) -> None:
    possible = {
        "quantization": QUANTIZATIONS,
        "quant_storage": tuple(QUANT_STORAGES.values()),
        "dtype": (None, *DTYPES),
    }
    for name, values in possible.items():
        given = getattr(settings, name)
        if given not in values:
            raise ModelError(
                f"{name} {given!r} is not possible in a quantized checkpoint; possible: "
                f"{', '.join(map(str, values))}. Change {name}."
            )


def _refuse_quantized(values: dict[str, Any], folder: Path) -> None:
    stored = values.get(quantization_config.KEY)
    if stored is not None:
        raise ModelError(
            f"the weights in {str(folder)!r} are already quantized, in "
            f"{quantization_config.quantization_of(stored)}; possible: weights in float32, "
            "bfloat16 or float16. Quantize the original model."
        )


def _verify(target: Path, digests: dict[str, str]) -> None:
    """Read what was written as a base is read, one weight at a time."""
    stored = stored_weights(target, plain_model(target), is_packed=True)
    read = {path: digest_of(entry.read(entry.dtype)) for path, entry in stored.layers.items()}
    if read != digests:
        differing = sorted(path for path in read | digests if read.get(path) != digests.get(path))
        raise VerificationError(
            f"the packed weight of {differing[0]!r} reads back as another one. Nothing was "
            "written. Check the disk, and report this if it is whole."
        )
