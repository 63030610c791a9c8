"""Merge on disk: a base folder and an adapter become a plain transformers folder, tensor by tensor.

Every tensor of the checkpoint is read, changed if the adapter or the quantization of the base says
so, and written; at most one output file is in memory. Names and layout of the checkpoint stay, and
tensors that are not changed keep their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lorakit.adapters.store import StoredAdapter, read_adapter
from lorakit.base import hub
from lorakit.base.as_stored import stored_weights
from lorakit.base.checkpoint import read_entries
from lorakit.base.config import as_json, read_config
from lorakit.base.device import compute_dtype
from lorakit.base.frozen_linear import is_linear
from lorakit.base.meta_model import plain_model
from lorakit.base.model_folder import (
    TensorGroup,
    copy_small_files,
    refuse_used_output,
    shard_bytes,
    write_weights,
)
from lorakit.base.packing import packable, weight_name
from lorakit.base.quantization_config import CHECKPOINT, KEY, check_asked
from lorakit.base.storages import storage
from lorakit.errors import AdapterError, VerificationError
from lorakit.files import staged_folder, write_json
from lorakit.ship.merge import refuse_shared_weights
from lorakit.ship.pieces import TORCH_DTYPES, Packing, Piece, make_pieces
from lorakit.ship.verify import Verification, verify_merge

# The float32 arithmetic of a merge against float64.
ARITHMETIC_ERROR = 1e-6


@dataclass(frozen=True)
class MergeReport:
    """What was written and how it compares.

    Attributes:
        output: the folder.
        into: "dequantized" or "original".
        num_tensors, num_changed: tensors written, and how many of them are not the base's own.
        weight_error: the largest relative error of a written weight against float64.
        verification: of the logits against base + adapter.
        unties: output head and embedding were one weight, and are two now.
    """

    output: Path
    into: str
    num_tensors: int
    num_changed: int
    weight_error: float
    verification: Verification
    unties: bool


def merge_folder(
    base: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    into: str = "dequantized",
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    dtype: torch.dtype | None = None,
    base_dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    tokenizer: str | Path | None = None,
) -> MergeReport:
    """Write base and adapter as one plain transformers folder, and prove that it computes the same.

    Args:
        base: folder or hub id the adapter was trained on.
        adapter: folder in PEFT's format.
        output: appears by one rename once everything is written and verified; may not hold
            anything.
        into: "dequantized": the weights the adapter was trained on, for a quantized base the
            dequantized ones (the faithful merge); "original": the checkpoint's weights, where the
            difference from base + adapter is measured and reported, not bounded.
        quantization, double_quantization, block_size: how the base was stored in training; the
            result of "checkpoint" is dense.
        dtype: of the written weights; None: each tensor as stored.
        base_dtype: that the base computed in while the adapter was trained; a quantized base was
            packed from it. None: that of the written weights.
        max_shard_size: bytes of one file, and about what is held in memory.
        revision: of a hub id.
        tokenizer: folder whose tokenizer, chat template and generation config replace the base's,
            such as a run's.

    Returns:
        What was written, and the verification.

    Raises:
        InputError: the inputs do not fit each other, or `output` is in use; nothing is written.
        VerificationError: what was written computes something else; it is removed again.
        RunError: the disk refuses.
    """
    final = Path(output)
    max_bytes = _checked_options(final, into, max_shard_size)
    folder = hub.resolve(base, revision)
    is_stored = quantization == CHECKPOINT
    check_asked(read_config(folder / "config.json"), quantization)
    if is_stored and into == "original":
        raise AdapterError(
            f"{str(folder)!r} is itself quantized: it holds no original weights. Possible is into "
            "'dequantized'. Use that, or merge with the original model as the base."
        )
    empty = plain_model(folder, compute_dtype(dtype or torch.float32, torch.device("cpu")))
    stored = read_adapter(empty, adapter)
    refuse_shared_weights(
        {
            name: module.get_parameter("weight")
            for name, module in stored.targets.adapted.items()
            if is_linear(module)  # beside an embedding, a head is untied
        }
    )
    base_dtype = base_dtype or dtype or _widest_stored(folder)
    # A dense base has rounded what it was adapted in, if to anything, to `base_dtype`.
    rounded = {weight_name(empty, name) for name in stored.targets.adapted}
    if is_stored:
        layers = stored_weights(folder, empty, is_packed=True).layers
        rounded |= {f"{layer}.weight" for layer in layers}
    elif quantization != "none":
        rounded = set(packable(empty).values())
    packing = Packing(
        storage("none" if is_stored else quantization),
        frozenset(rounded if into == "dequantized" else ()),
        block_size,
        double_quantization,
        base_dtype,
        is_stored,
    )
    pieces = make_pieces(folder, empty, stored, packing, dtype)
    with staged_folder(final) as staging:
        weight_error = _write(pieces, staging, max_bytes)
        copy_small_files(folder, staging)
        if tokenizer is not None:
            copy_small_files(Path(tokenizer), staging)
        unties = _unties(empty, stored, pieces)
        write_json(staging / "config.json", as_json(_config(folder, unties, dtype)))
        verification = verify_merge(
            staging,
            base=folder,
            adapter=adapter,
            dtype=base_dtype,
            written_dtype=_narrowest(pieces, base_dtype),
            quantization=quantization,
            double_quantization=double_quantization,
            block_size=block_size,
            bounded=into == "dequantized",
        )
    num_tensors = sum(len(piece.names) for piece in pieces)
    num_changed = sum(len(piece.names) for piece in pieces if piece.is_changed)
    return MergeReport(final, into, num_tensors, num_changed, weight_error, verification, unties)


def _checked_options(final: Path, into: str, max_shard_size: int | str) -> int:
    if into not in ("dequantized", "original"):
        raise AdapterError(
            f"into {into!r} is not possible; possible are 'dequantized' (faithful) and 'original'."
        )
    refuse_used_output(final)
    return shard_bytes(max_shard_size)


def _write(pieces: list[Piece], folder: Path, max_bytes: int) -> float:
    """Write the weights; returns the largest relative error of a merged one."""
    errors = [0.0]

    def group(piece: Piece) -> TensorGroup:
        def make() -> dict[str, torch.Tensor]:
            made = piece.make()
            _check_error(piece, made.error)
            errors.append(made.error)
            return made.tensors

        return TensorGroup(piece.num_bytes, make)

    write_weights([group(piece) for piece in pieces], folder, max_bytes, "merging")
    return max(errors)


def _check_error(piece: Piece, error: float) -> None:
    if piece.dtype is None:
        return
    bound = torch.finfo(piece.dtype).eps / 2 + ARITHMETIC_ERROR
    # `not <=`: a NaN is a failure too.
    if not error <= bound:
        raise VerificationError(
            f"the merged weight of {piece.layer!r} is off by {error:.2g}; one rounding to "
            f"{piece.dtype} explains {bound:.2g}. Nothing was written. Report this."
        )


def _unties(empty: PreTrainedModel, stored: StoredAdapter, pieces: list[Piece]) -> bool:
    """Whether output head and embedding were one weight, and are two once merged."""
    if any(target.tied_to is not None for target in stored.targets.rows.values()):
        return False
    inputs, outputs = empty.get_input_embeddings(), empty.get_output_embeddings()
    tied = outputs is not None and inputs.weight is outputs.weight
    changed = {piece.layer for piece in pieces if piece.is_changed}
    embeddings = {name for name, m in empty.named_modules() if m is inputs or m is outputs}
    return tied and not changed.isdisjoint(embeddings)


def _config(folder: Path, unties: bool, dtype: torch.dtype | None) -> dict[str, Any]:
    """The original config.json, with another dtype if asked for, and untied where a merge
    unties.
    """
    values = read_config(folder / "config.json")
    values.pop(KEY, None)  # what is written is dense
    if dtype is not None:
        values.pop("torch_dtype", None)
        values["dtype"] = str(dtype).removeprefix("torch.")
    if unties:
        values["tie_word_embeddings"] = False
    return values


def _widest_stored(folder: Path) -> torch.dtype:
    stored = {TORCH_DTYPES.get(entry.dtype) for entry in read_entries(folder).values()}
    widths = {dtype: torch.finfo(dtype).bits for dtype in stored if dtype is not None}
    return max(widths, key=widths.__getitem__, default=torch.float32)


def _narrowest(pieces: list[Piece], base_dtype: torch.dtype) -> torch.dtype:
    """Of what was written anew and `base_dtype`."""
    changed = {piece.dtype for piece in pieces if piece.is_changed and piece.dtype is not None}
    return max(changed | {base_dtype}, key=lambda dtype: torch.finfo(dtype).eps)
