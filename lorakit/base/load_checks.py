"""What is asked of a checkpoint before and after transformers reads it, in errors of ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lorakit.base.as_stored import StoredWeights
from lorakit.errors import ModelError

logger = logging.getLogger(__name__)

# Parameters that may be missing from a checkpoint without exhausting memory: the report names them.
SMALL_MODEL = 10_000_000


def check_size(plain: PreTrainedModel, held: int, folder: Path) -> None:
    # Before anything is allocated: what the checkpoint lacks would be drawn at random first.
    described = sum(parameter.numel() for parameter in plain.parameters())
    if described > 2 * held + SMALL_MODEL:
        raise ModelError(
            f"config.json in {str(folder)!r} describes {described} parameters, but the weights "
            f"hold {held}; possible: a config that belongs to its weights. Download the model "
            "again."
        )


def check_report(report: dict[str, Any], folder: Path) -> None:
    faults = []
    for key, wording in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "not expected by this architecture"),
        ("mismatched_keys", "of another shape than config.json says"),
        ("conversion_errors", "not convertible"),
    ):
        names = sorted(map(_named, report.get(key) or ()))
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            faults.append(f"{len(names)} tensors are {wording}: {shown}")
    if faults:
        raise ModelError(
            f"the weights in {str(folder)!r} do not fit its config.json: {'; '.join(faults)}. "
            "Possible: exactly the tensors of the architecture. Check that config and weights "
            "belong together."
        )


def _named(entry: Any) -> str:
    """transformers reports a name, or (name, shape in the file, shape in the model)."""
    if isinstance(entry, str):
        return entry
    name, stored, expected = entry
    return f"{name} {tuple(stored)} instead of {tuple(expected)}"


def report_unpacked(stored: StoredWeights, dtype: torch.dtype) -> None:
    """Say what packed weights become dense, which may be far more than the files are large."""
    in_layers = {entry.weight.name for entry in stored.layers.values()}
    unpacked = [entry for name, entry in stored.packed.items() if name not in in_layers]
    if not unpacked:
        return
    packed_bytes = sum(
        part.stop - part.start
        for entry in unpacked
        for part in (entry.weight, *entry.companions.values())
    )
    logger.warning(
        "%d packed weights become parts of larger ones, as experts do, and are dense in memory: "
        "%d bytes in the files, %d in %s",
        len(unpacked),
        packed_bytes,
        sum(entry.shape.numel() for entry in unpacked) * dtype.itemsize,
        dtype,
    )
