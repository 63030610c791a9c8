"""Merge on disk: a base folder and an adapter become a plain transformers folder, tensor by tensor.

    faithful                  into the very weights the adapter was trained on
    into="original"           into the weights that a quantized base was packed from
    quantize=PackSettings()   into the original weights, which are packed once, afterwards

Every tensor of the checkpoint is read, changed if the adapter or the quantization of the base says
so, and written. In memory are one output file and, beside it, the parameter that is being made:
about five times in float32, or six where what became of it is measured. Names and layout of the
checkpoint stay, and tensors that are not changed keep their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.adapters.store import StoredAdapter, read_adapter, room_for_rows
from lorakit.base import hub
from lorakit.base.as_stored import stored_weights
from lorakit.base.bitsandbytes_format import read_weights
from lorakit.base.code_values import mark
from lorakit.base.config import read_config
from lorakit.base.device import compute_dtype
from lorakit.base.dtypes import FLOATING_DTYPES
from lorakit.base.frozen_linear import is_linear
from lorakit.base.meta_model import plain_model
from lorakit.base.model_folder import copy_small_files, shard_bytes
from lorakit.base.packed_entry import packed_from
from lorakit.base.packing import packable, weight_name
from lorakit.base.quantization_config import CHECKPOINT, KEY, check_asked, quantization_of
from lorakit.base.storages import storage
from lorakit.base.vocabulary import vocabulary_rows
from lorakit.base.write_quantized import PackSettings
from lorakit.files import new_folder, staged_folder
from lorakit.ship.check_original import refuse_other_model
from lorakit.ship.merge import refuse_shared_weights
from lorakit.ship.merge_options import ORIGINAL, chosen_weights
from lorakit.ship.piece import Packing, Piece
from lorakit.ship.pieces import into_original, make_pieces
from lorakit.ship.verify import Verification, verify_merge
from lorakit.ship.weight_change import WeightChange, measure_change, refuse_lost_change
from lorakit.ship.write_merged import unties_head, write_merged


@dataclass(frozen=True)
class MergeReport:
    """What was written and how it compares.

    Attributes:
        output: the folder.
        into: "dequantized" or "original".
        base_quantization: how the base was stored in training.
        quantize: how the written linear weights are packed; None: they are dense.
        init: `init_lora_weights` of an adapter that started with a part of its base; None: another.
        num_tensors, num_changed: tensors written, and how many of them are not the base's own.
        weight_error: the largest relative error of a written (or packed) weight against float64.
        weights: what became of the weights; None for the faithful merge, which is held to a bound.
        verification: of the logits against base + adapter.
        unties: output head and embedding were one weight, and are two now.
        codes: what the base was packed in, where the written weights lie on the values of its
            codes, or beside them; None: they do not.
    """

    output: Path
    into: str
    base_quantization: str
    quantize: str | None
    init: str | None
    num_tensors: int
    num_changed: int
    weight_error: float
    weights: WeightChange | None
    verification: Verification
    unties: bool
    codes: str | None


def merge_folder(
    base: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    into: str | None = None,
    quantize: PackSettings | None = None,
    original: str | Path | None = None,
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    dtype: torch.dtype | None = None,
    base_dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    tokenizer: str | Path | None = None,
) -> MergeReport:
    """Write base and adapter as one plain transformers folder, and prove what it computes.

    Args:
        base: folder or hub id the adapter was trained on.
        adapter: folder in PEFT's format.
        output: appears by one rename once everything is written and verified; may not hold
            anything.
        into: "dequantized": the weights the adapter was trained on, for a quantized base the
            dequantized ones (the faithful merge); "original": the checkpoint's weights, where the
            difference from base + adapter is measured and reported, not bounded. None:
            "original" with `quantize`, else "dequantized".
        quantize: pack the merged weights once, as bitsandbytes does; its dtype is `dtype`.
        original: folder or hub id of the unquantized model, where `base` is itself quantized; that
            it was packed from this one is checked.
        quantization, double_quantization, block_size: how the base was stored in training; the
            result of "checkpoint" is dense.
        dtype: of the written weights, or that they are packed from; None: each tensor as stored.
        base_dtype: that the base computed in while the adapter was trained; a quantized base was
            packed from it. None: that of the written weights.
        max_shard_size: bytes of one file; it is in memory twice while it is written.
        revision: of a hub id, the base's.
        tokenizer: folder whose tokenizer, chat template and generation config replace the base's,
            such as a run's.

    Returns:
        What was written, and how it compares.

    Raises:
        InputError: the inputs do not fit each other, or `output` is in use; nothing is written.
        VerificationError: what was written computes something else, or has lost what training
            changed; it is removed again.
        RunError: the disk refuses.
    """
    into = chosen_weights(into, quantize, original, quantization)
    final = new_folder(Path(output))
    max_bytes = shard_bytes(max_shard_size)
    folder = hub.resolve(base, revision)
    check_asked(read_config(folder / "config.json"), quantization)
    base_dtype = base_dtype or dtype or _widest_stored(folder)
    storing = _Storing(quantization, double_quantization, block_size, base_dtype)
    opened = _open(folder, adapter, dtype)
    faithful = _faithful_pieces(opened, storing, dtype)
    pieces = faithful
    codes = None if into == ORIGINAL else _codes(opened, quantization)
    if into == ORIGINAL:
        if original is not None:
            folder_of_original = hub.resolve(original, given_as="--original")
            check_asked(read_config(folder_of_original / "config.json"), "none")
            refuse_other_model(folder_of_original, folder)
            opened = _open(folder_of_original, adapter, dtype)
        pieces = _original_pieces(opened, storing, dtype, faithful)
    with staged_folder(final) as staging:
        unties = unties_head(opened.empty, opened.stored, pieces)
        weight_error = write_merged(
            pieces,
            opened.folder,
            staging,
            dtype=dtype,
            quantize=None if quantize is None else replace(quantize, dtype=dtype),
            max_bytes=max_bytes,
            unties=unties,
            vocab_size=opened.vocab_size,
        )
        copy_small_files(opened.folder, staging)
        if tokenizer is not None:
            copy_small_files(Path(tokenizer), staging)
        if codes is not None:
            mark(staging, codes)
        weights = None
        if into == ORIGINAL or quantize is not None:
            weights = measure_change(staging, pieces, faithful, is_packed=quantize is not None)
            if quantize is not None:
                refuse_lost_change(weights)
        verification = verify_merge(
            staging,
            base=folder,
            adapter=adapter,
            dtype=base_dtype,
            written_dtype=_narrowest(pieces, base_dtype),
            quantization=quantization,
            double_quantization=double_quantization,
            block_size=block_size,
            is_packed=quantize is not None,
            bounded=weights is None,
        )
    return MergeReport(
        output=Path(output),
        into=into,
        base_quantization=quantization,
        quantize=None if quantize is None else quantize.quantization,
        init=str(opened.stored.config.init_lora_weights) if opened.stored.starts else None,
        num_tensors=sum(len(piece.names) for piece in pieces),
        num_changed=sum(len(piece.names) for piece in pieces if piece.is_changed),
        weight_error=weight_error,
        weights=weights,
        verification=verification,
        unties=unties,
        codes=codes,
    )


@dataclass(frozen=True)
class _Opened:
    """A model folder, its model on the meta device, and the adapter checked against it.

    `vocab_size` is the new one where the adapter brings rows of new tokens.
    """

    folder: Path
    empty: PreTrainedModel
    stored: StoredAdapter
    vocab_size: int | None


@dataclass(frozen=True)
class _Storing:
    """How the base was stored in training, and the dtype that it computed in."""

    quantization: str
    double_quantization: bool
    block_size: int
    dtype: torch.dtype

    def packing(self, parameters: Iterable[str]) -> Packing:
        """Of the parameters whose dequantized value stands for the checkpoint's."""
        is_stored = self.quantization == CHECKPOINT
        return Packing(
            storage("none" if is_stored else self.quantization),
            frozenset(parameters),
            self.block_size,
            self.double_quantization,
            self.dtype,
            is_stored,
        )


def _open(folder: Path, adapter: str | Path, dtype: torch.dtype | None) -> _Opened:
    empty = plain_model(folder, compute_dtype(dtype or torch.float32, torch.device("cpu")))
    num_rows = vocabulary_rows(empty)
    with room_for_rows(empty, adapter):
        stored = read_adapter(empty, adapter)
    refuse_shared_weights(
        {
            name: module.get_parameter("weight")
            for name, module in stored.targets.adapted.items()
            if is_linear(module)  # beside an embedding, a head is untied
        }
    )
    grown = vocabulary_rows(empty)
    return _Opened(folder, empty, stored, grown if grown > num_rows else None)


def _codes(opened: _Opened, quantization: str) -> str | None:
    """What a base is packed in, where its weights are the values of codes."""
    if quantization == "none" or opened.stored.starts:
        return None  # what an init took out, at 32 bit, lies on no codes
    if quantization != CHECKPOINT:
        return quantization
    return quantization_of(read_config(opened.folder / "config.json")[KEY])


def _faithful_pieces(opened: _Opened, storing: _Storing, dtype: torch.dtype | None) -> list[Piece]:
    # A dense base has rounded what it was adapted in, if to anything, to its dtype.
    rounded = {weight_name(opened.empty, name) for name in opened.stored.targets.adapted}
    if storing.quantization == CHECKPOINT:
        packed = stored_weights(opened.folder, opened.empty, is_packed=True).layers
        rounded |= {f"{layer}.weight" for layer in packed}
    elif storing.quantization != "none":
        rounded = set(packable(opened.empty).values())
    packing = storing.packing(rounded)
    return make_pieces(opened.folder, opened.empty, opened.stored, packing, dtype)


def _original_pieces(
    opened: _Opened, storing: _Storing, dtype: torch.dtype | None, faithful: list[Piece]
) -> list[Piece]:
    unpacked = replace(storing, quantization="none").packing(())
    pieces = make_pieces(opened.folder, opened.empty, opened.stored, unpacked, dtype)
    return into_original(pieces, faithful)


def _widest_stored(folder: Path) -> torch.dtype:
    values = read_config(folder / "config.json")
    entries, packed = read_weights(folder, is_packed=KEY in values)
    stored = {FLOATING_DTYPES.get(entry.dtype) for entry in entries.values()}
    stored |= {packed_from(entry, values) for entry in packed.values()}
    widths = {dtype: torch.finfo(dtype).bits for dtype in stored if dtype is not None}
    return max(widths, key=widths.__getitem__, default=torch.float32)


def _narrowest(pieces: list[Piece], base_dtype: torch.dtype) -> torch.dtype:
    """Of what was written anew and `base_dtype`."""
    changed = {piece.dtype for piece in pieces if piece.is_changed and piece.dtype is not None}
    return max(changed | {base_dtype}, key=lambda dtype: torch.finfo(dtype).eps)
