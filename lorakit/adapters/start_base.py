"""Which base a start belongs to that is part of it: on another one the same factors are another
model.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from lorakit.base.fingerprint import sampled_sha256
from lorakit.base.info import base_info
from lorakit.base.origin import Origin, origins
from lorakit.errors import AdapterError, ModelError
from lorakit.recipe.quantizations import BLOCKWISE

SAMPLED_ROWS = 16  # of every original tensor; a save reads no more than these
MAX_NAMES_IN_MESSAGE = 3

log = logging.getLogger(__name__)


class StartBase(BaseModel):
    """How a base is stored, and what its layers were made of.

    Attributes:
        quantization: of the base.
        block_size, double_quantization: of storages in blocks; None for others.
        originals: {module name: SHA-256 over rows of the checkpoint's tensors it was made of}; not
            of modules whose files were not there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantization: str
    block_size: int | None
    double_quantization: bool | None
    originals: dict[str, str]

    def words(self) -> str:
        """Such as "nf4 (block size 64, double quantization)"."""
        if self.block_size is None:
            return self.quantization
        double = "double" if self.double_quantization else "no double"
        return f"{self.quantization} (block size {self.block_size}, {double} quantization)"


def start_base(model: PreTrainedModel, names: Collection[str]) -> StartBase | None:
    """What `model` is to the starts of the modules `names`; None for a model without weights, on
    the meta device, of which nobody said how they will be stored.
    """
    try:
        info = base_info(model)
    except ModelError:
        if model.device.type == "meta":
            return None
        # Only load_base packs: a model made elsewhere is dense.
        return StartBase(
            quantization="none", block_size=None, double_quantization=None, originals={}
        )
    in_blocks = info.quantization in BLOCKWISE
    return StartBase(
        quantization=info.quantization,
        block_size=info.block_size if in_blocks else None,
        double_quantization=info.double_quantization if in_blocks else None,
        originals=_originals(model, names),
    )


def refuse_other_base(trained: StartBase, model: PreTrainedModel, form: Path) -> None:
    """Raise AdapterError where `model` is not the base that a start was part of.

    Args:
        trained: what the adapter was trained on.
        model: without the adapter.
        form: folder of the unconverted form.
    """
    here = start_base(model, trained.originals)
    if here is None:
        return
    plain = (
        f"the plain form in {form.parent}, a LoRA for any base: remove {form}, or load a copy "
        "without it"
    )
    if here.words() != trained.words():
        raise AdapterError(
            f"{form} was trained on a base stored as {trained.words()}, and its start is a part of "
            f"that; this base is stored as {here.words()}, on which it would be another model. "
            f"Possible: the base as it was stored in training; or {plain}."
        )
    both = trained.originals.keys() & here.originals.keys()
    differing = sorted(n for n in both if trained.originals[n] != here.originals[n])
    if differing:
        raise AdapterError(
            f"{form} was trained on a base with other weights in {len(differing)} layers, such as "
            f"{', '.join(differing[:MAX_NAMES_IN_MESSAGE])}, and its start is a part of those. "
            f"Possible: the base it was trained on; or {plain}."
        )
    if trained.originals and not both:
        log.warning(
            "%s says which weights it was trained on, and the files of this base are not there to "
            "compare: its start is right on that base only",
            form,
        )


def _originals(model: PreTrainedModel, names: Collection[str]) -> dict[str, str]:
    try:
        found = origins(model)
    except (ModelError, OSError):
        return {}  # the folder is gone: the caller says so where it matters
    hashes = {}
    for name in names:
        parts = found.get(f"{name}.weight", ())
        try:
            tensors = [(part.tensor, rows) for part in parts for rows in _sampled_rows(part)]
        except (OSError, SafetensorError):
            continue
        if tensors:
            hashes[name] = sampled_sha256(tensors)
    return hashes


def _sampled_rows(origin: Origin) -> list[torch.Tensor]:
    """Rows spread over a checkpoint's tensor as stored, the first and the last among them."""
    with safe_open(origin.file, framework="pt", backend="pread") as file:
        piece = file.get_slice(origin.tensor)
        num_rows = piece.get_shape()[0]
        steps = max(min(SAMPLED_ROWS, num_rows) - 1, 1)
        wanted = sorted({step * (num_rows - 1) // steps for step in range(steps + 1)})
        return [piece[row : row + 1] for row in wanted]
