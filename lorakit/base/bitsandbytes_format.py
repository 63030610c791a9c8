"""How bitsandbytes stores packed weights in safetensors: read, checked and made.

A packed weight `P.weight` has companion tensors beside it:

    4-bit   P.weight            the codes: any dtype, the bytes are what counts
            P.weight.absmax     float32 block scales; uint8 codes of them when double-quantized
            P.weight.quant_map  the code book, float32 (16)
            P.weight.nested_absmax, P.weight.nested_quant_map (double quantization)
            P.weight.quant_state.bitsandbytes__nf4 (or fp4): UTF-8 JSON in a uint8 tensor
    8-bit   P.weight            int8 (O, I)
            P.SCB               float32 (O), the largest magnitude of each row
            P.weight_format     uint8, 0

The files are untrusted: what is here hands out nothing that was not checked against the headers.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from lorakit.base.bitsandbytes_checks import CPU, STATE, broken, eight_bit_entry, four_bit_entry
from lorakit.base.checkpoint import TensorEntry, read_entries
from lorakit.base.packed_entry import Packed, PackedEntry
from lorakit.base.storages.int8 import Int8Weight
from lorakit.errors import ModelError
from lorakit.kernels.reference.dynamic8 import dynamic_map
from lorakit.kernels.reference.four_bit import NESTED_BLOCK_SIZE, code_values

COMPANION = re.compile(
    r"(?P<path>.+)\.(?:weight\.(?P<four_bit>absmax|quant_map|nested_absmax|nested_quant_map"
    r"|quant_state\.bitsandbytes__[a-z0-9]+)|(?P<eight_bit>SCB|weight_format))"
)


def read_weights(
    folder: Path, *, is_packed: bool
) -> tuple[dict[str, TensorEntry], dict[str, PackedEntry]]:
    """All tensors of a model folder: those that are no part of a packed weight, and the packed
    weights, by name.

    Args:
        folder: with safetensors files.
        is_packed: whether its config says that weights are packed; otherwise none is looked for.

    Raises:
        ModelError: as in `checkpoint.read_entries` and `split_entries`, or no weight is packed.
    """
    entries = read_entries(folder)
    if not is_packed:
        return entries, {}
    plain, packed = split_entries(entries)
    if not packed:
        raise ModelError(
            f"config.json in {str(folder)!r} says that the weights are stored quantized, but none "
            "is; possible: packed weights with their scales beside them. Download the model again, "
            "or remove quantization_config from its config.json if it is dense."
        )
    return plain, packed


def split_entries(
    entries: dict[str, TensorEntry],
) -> tuple[dict[str, TensorEntry], dict[str, PackedEntry]]:
    """Tell the packed weights of a checkpoint from its other tensors.

    Args:
        entries: all tensors by name.

    Returns:
        Those that are no part of a packed weight, and {name of a packed weight: what it is}.

    Raises:
        ModelError: tensors of a packed weight that are missing, or do not fit each other, or hold
            values that no quantizer writes.
    """
    companions: dict[str, dict[str, TensorEntry]] = defaultdict(dict)
    for name, entry in entries.items():
        if match := COMPANION.fullmatch(name):
            suffix = match["four_bit"] or match["eight_bit"]
            companions[f"{match['path']}.weight"][suffix] = entry
    packed = {}
    for name, parts in companions.items():
        if name not in entries:
            stray = next(iter(parts.values()))
            raise broken(stray, f"it belongs to {name!r}, which is missing")
        check = eight_bit_entry if parts.keys() & {"SCB", "weight_format"} else four_bit_entry
        packed[name] = check(entries[name], parts)
    consumed = {part.name for parts in companions.values() for part in parts.values()}
    plain = {
        name: entry
        for name, entry in entries.items()
        if name not in packed and name not in consumed
    }
    return plain, packed


def stored_tensors(
    name: str, stored: Packed, quant_storage: torch.dtype = torch.uint8
) -> dict[str, torch.Tensor]:
    """A packed weight as bitsandbytes stores it.

    Args:
        name: of the weight, such as `model.layers.0.mlp.up_proj.weight`.
        stored: the packed weight; its `dtype` is the one to be dequantized to.
        quant_storage: the dtype that 4-bit codes are viewed as; int8 codes are int8.

    Returns:
        {tensor name: tensor}

    Raises:
        ModelError: the bytes do not divide into elements of `quant_storage`.
    """
    if isinstance(stored, Int8Weight):
        path = name.removesuffix(".weight")
        return {
            name: stored.codes,
            f"{path}.SCB": stored.absmax,
            f"{path}.weight_format": torch.tensor(0, dtype=torch.uint8),
        }
    if stored.codes.numel() % quant_storage.itemsize:
        raise ModelError(
            f"{name!r} has {stored.codes.numel()} bytes of codes, which are no whole number of "
            f"{quant_storage} elements; possible for this model: uint8. Change quant_storage."
        )
    state: dict[str, Any] = {
        "quant_type": stored.code_book,
        "blocksize": stored.block_size,
        "dtype": str(stored.dtype).removeprefix("torch."),
        "shape": list(stored.shape),
    }
    tensors = {
        name: stored.codes.view(quant_storage)[:, None],
        f"{name}.absmax": stored.absmax,
        f"{name}.quant_map": code_values(stored.code_book, CPU).clone(),
    }
    if stored.nested_absmax is not None and stored.nested_offset is not None:
        state |= {
            "nested_blocksize": NESTED_BLOCK_SIZE,
            "nested_dtype": "float32",
            "nested_offset": stored.nested_offset.item(),
        }
        tensors[f"{name}.nested_absmax"] = stored.nested_absmax
        tensors[f"{name}.nested_quant_map"] = dynamic_map(CPU).clone()
    text = json.dumps(state).encode()
    tensors[f"{name}.{STATE}{stored.code_book}"] = torch.tensor(list(text), dtype=torch.uint8)
    return tensors
