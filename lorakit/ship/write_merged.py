"""The files of a merged folder: dense weights or packed ones, and config.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lorakit.adapters.store import StoredAdapter
from lorakit.base.checkpoint import read_entries
from lorakit.base.config import as_json, read_config
from lorakit.base.dtypes import FLOATING_DTYPES
from lorakit.base.model_folder import TensorGroup, write_weights
from lorakit.base.quantization_config import KEY
from lorakit.base.write_quantized import PackSettings, Replacement, write_quantized
from lorakit.errors import VerificationError
from lorakit.files import write_json
from lorakit.ship.piece import Piece

# The float32 arithmetic of a merge against float64.
ARITHMETIC_ERROR = 1e-6


def write_merged(
    pieces: Sequence[Piece],
    folder: Path,
    target: Path,
    *,
    dtype: torch.dtype | None,
    quantize: PackSettings | None,
    max_bytes: int,
    unties: bool,
    vocab_size: int | None = None,
) -> float:
    """Write weights and config.json.

    Args:
        pieces: of all tensors.
        folder: that they come from.
        target: an empty folder.
        dtype: of the result; None: each tensor as stored.
        quantize: how linear weights are packed; None: they are not.
        max_bytes: of one file.
        unties: output head and embedding were one weight, and are two now.
        vocab_size: where it has grown; None: as it was.

    Returns:
        The largest relative error of a merged weight, before it is packed.

    Raises:
        VerificationError: a merged weight is not what base and adapter compute.
        RunError: the disk refuses.
    """
    errors = [0.0]

    def checked(piece: Piece) -> Callable[[], dict[str, torch.Tensor]]:
        def make() -> dict[str, torch.Tensor]:
            made = piece.make()
            _check_error(piece, made.error)
            errors.append(made.error)
            return made.tensors

        return make

    config = _config(folder, unties, dtype, vocab_size)
    if quantize is None:
        groups = [TensorGroup(piece.num_bytes, checked(piece)) for piece in pieces]
        write_weights(groups, target, max_bytes, "merging")
        write_json(target / "config.json", as_json(config))
        return max(errors)
    entries = read_entries(folder)
    replaced: dict[str, Replacement] = {}
    for piece in pieces:
        if piece.is_changed or piece.name not in entries:
            written = piece.dtype
            if written is None and piece.source is not None:
                written = FLOATING_DTYPES[entries[piece.source.names[0]].dtype]
            assert written is not None  # what the adapter brings has a dtype
            made = _MadeOnce(checked(piece))
            is_one = len(piece.names) == 1
            for name in piece.names:
                shape = piece.shape if is_one else torch.Size(entries[name].shape)
                replaced[name] = Replacement(shape, written, partial(made.take, name))
    write_quantized(folder, target, quantize, max_bytes=max_bytes, replaced=replaced, config=config)
    return max(errors)


def unties_head(empty: PreTrainedModel, stored: StoredAdapter, pieces: Sequence[Piece]) -> bool:
    """Whether output head and embedding were one weight, and are two once merged."""
    if any(target.tied_to is not None for target in stored.targets.rows.values()):
        return False
    inputs, outputs = empty.get_input_embeddings(), empty.get_output_embeddings()
    tied = outputs is not None and inputs.weight is outputs.weight
    changed = {piece.layer for piece in pieces if piece.is_changed}
    embeddings = {name for name, m in empty.named_modules() if m is inputs or m is outputs}
    return tied and not changed.isdisjoint(embeddings)


class _MadeOnce:
    """The tensors of one piece, made when the first is asked for, each given away once."""

    def __init__(self, make: Callable[[], dict[str, torch.Tensor]]) -> None:
        self._make = make
        self._left: dict[str, torch.Tensor] = {}

    def take(self, name: str) -> torch.Tensor:
        if not self._left:
            self._left = self._make()
        return self._left.pop(name)


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


def _config(
    folder: Path, unties: bool, dtype: torch.dtype | None, vocab_size: int | None
) -> dict[str, Any]:
    """The original config.json, with another dtype if asked for, untied where a merge unties, and
    with another vocabulary where that has grown.
    """
    values = read_config(folder / "config.json")
    values.pop(KEY, None)  # what is written is dense
    if dtype is not None:
        values.pop("torch_dtype", None)
        values["dtype"] = str(dtype).removeprefix("torch.")
    if unties:
        values["tie_word_embeddings"] = False
    if vocab_size is not None:
        # A composite checkpoint has the config of its language model inside.
        inner = values.get("text_config")
        (values if inner is None else inner)["vocab_size"] = vocab_size
    return values
