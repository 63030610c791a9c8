"""Packed weights of untrusted files, checked: nothing is handed out that does not fit its headers.

The layout is told in `bitsandbytes_format.py`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from lorakit.base.checkpoint import TensorEntry, read_tensor
from lorakit.base.dtypes import TORCH_DTYPES
from lorakit.base.four_bit import BLOCK_SIZES
from lorakit.base.packed_entry import DTYPES, PackedEntry
from lorakit.base.storages import int8
from lorakit.errors import ModelError
from lorakit.kernels.reference.dynamic8 import dynamic_map
from lorakit.kernels.reference.four_bit import CODE_VALUES, NESTED_BLOCK_SIZE, code_values

STATE = "quant_state.bitsandbytes__"
MAX_STATE_BYTES = 4096
# Both libraries compute the maps; another build of torch may round the last bit otherwise.
MAP_TOLERANCE = 1e-6
CPU = torch.device("cpu")


def eight_bit_entry(weight: TensorEntry, parts: dict[str, TensorEntry]) -> PackedEntry:
    strange = sorted(parts.keys() - {"SCB", "weight_format"})
    if strange:
        raise broken(weight, f"it has both 8-bit companions and {strange[0]!r}")
    if "SCB" not in parts:
        raise broken(weight, "its companion 'SCB' is missing")
    _check_header(weight, weight, ("I8",), weight.shape)
    if len(weight.shape) != 2:
        raise broken(weight, f"it has the shape {weight.shape}, not two dimensions")
    _check_header(weight, parts["SCB"], ("F32",), weight.shape[:-1])
    if "weight_format" in parts:
        _check_header(weight, parts["weight_format"], ("U8",), ())
        if read_tensor(parts["weight_format"]).item() != 0:
            raise broken(weight, "its 'weight_format' is not 0 (row-major), the one still in use")
    _check_finite(weight, "SCB", read_tensor(parts["SCB"]))
    shape = torch.Size(weight.shape)
    return PackedEntry(weight, parts, int8.QUANTIZATION, shape, torch.float16, shape[-1])


def four_bit_entry(weight: TensorEntry, parts: dict[str, TensorEntry]) -> PackedEntry:
    states = [suffix for suffix in parts if suffix.startswith(STATE)]
    known = [f"{STATE}{name}" for name in CODE_VALUES]
    if len(states) != 1 or states[0] not in known:
        raise broken(weight, f"its states are {states}; possible: one of {', '.join(known)}")
    state = _read_state(weight, parts[states[0]], states[0].removeprefix(STATE))
    nested = "nested_offset" in state
    needed = {"absmax", "quant_map", states[0]}
    needed |= {"nested_absmax", "nested_quant_map"} if nested else set()
    if parts.keys() != needed:
        odd = sorted(parts.keys() ^ needed)[0]
        raise broken(weight, f"its companion {odd!r} is {'extra' if odd in parts else 'missing'}")
    entry = PackedEntry(
        weight,
        parts,
        state["quant_type"],
        torch.Size(state["shape"]),
        DTYPES[state["dtype"]],
        state["blocksize"],
        float(state["nested_offset"]) if nested else None,
    )
    _check_sizes(entry)
    _check_values(entry)
    return entry


def _read_state(weight: TensorEntry, entry: TensorEntry, quantization: str) -> dict[str, Any]:
    size = math.prod(entry.shape)
    if entry.dtype != "U8" or size > MAX_STATE_BYTES:
        raise broken(weight, f"its state has {size} elements of {entry.dtype}, not a short text")
    try:
        state = json.loads(read_tensor(entry).numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise broken(weight, f"its state is not JSON ({error})") from error
    plain = {"quant_type", "blocksize", "dtype", "shape"}
    nested = {"nested_blocksize", "nested_dtype", "nested_offset"}
    if not isinstance(state, dict) or state.keys() not in (plain, plain | nested):
        raise broken(weight, f"its state is not an object of {', '.join(sorted(plain))}")
    shape, offset = state["shape"], state.get("nested_offset", 0.0)
    faults = {
        "quant_type": state["quant_type"] == quantization,
        "blocksize": type(state["blocksize"]) is int and state["blocksize"] in BLOCK_SIZES,
        "dtype": isinstance(state["dtype"], str) and state["dtype"] in DTYPES,
        "shape": isinstance(shape, list)
        and len(shape) > 0
        and all(type(size) is int and size > 0 for size in shape),
        "nested_blocksize": state.get("nested_blocksize", NESTED_BLOCK_SIZE) == NESTED_BLOCK_SIZE,
        "nested_dtype": state.get("nested_dtype", "float32") == "float32",
        "nested_offset": type(offset) in (int, float) and math.isfinite(offset),
    }
    for key, is_right in faults.items():
        if not is_right:
            raise broken(weight, f"its state has {key} = {state[key]!r}")
    return state


def _check_sizes(entry: PackedEntry) -> None:
    weight, parts = entry.weight, entry.companions
    num_bytes, num_weights = weight.stop - weight.start, math.prod(entry.shape)
    itemsize = TORCH_DTYPES[weight.dtype].itemsize
    if num_bytes != -(-((num_weights + 1) // 2) // itemsize) * itemsize:
        raise broken(
            weight,
            f"its state says the shape {tuple(entry.shape)}, but it has {num_bytes} bytes of "
            f"{weight.dtype}",
        )
    num_blocks = -(-num_weights // entry.block_size)
    nested = entry.double_quantization
    _check_header(weight, parts["absmax"], ("U8" if nested else "F32",), (num_blocks,))
    _check_header(weight, parts["quant_map"], ("F32",), (16,))
    if nested:
        num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)
        _check_header(weight, parts["nested_absmax"], ("F32",), (num_nested,))
        _check_header(weight, parts["nested_quant_map"], ("F32",), (256,))


def _check_values(entry: PackedEntry) -> None:
    parts = entry.companions
    maps = {"quant_map": code_values(entry.quantization, CPU)}
    if entry.nested_offset is not None:
        maps["nested_quant_map"] = dynamic_map(CPU)
        # Sums of the two stay finite as well: codes are at most 1.
        _check_finite(entry.weight, "nested_absmax", 2 * read_tensor(parts["nested_absmax"]))
        _check_finite(entry.weight, "nested_offset", torch.tensor(2 * entry.nested_offset))
    else:
        _check_finite(entry.weight, "absmax", read_tensor(parts["absmax"]))
    for suffix, known in maps.items():
        # `not <=`: a NaN is a failure too.
        if not (read_tensor(parts[suffix]) - known).abs().max() <= MAP_TOLERANCE:
            raise broken(entry.weight, f"its {suffix!r} is not that of {entry.quantization}")


def _check_header(
    weight: TensorEntry, part: TensorEntry, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    if part.dtype not in dtypes or part.shape != shape:
        raise broken(
            weight,
            f"{part.name!r} is {part.dtype} {part.shape}, not {'/'.join(dtypes)} {shape}",
        )


def _check_finite(weight: TensorEntry, suffix: str, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise broken(weight, f"its {suffix!r} has values that are not finite")


def broken(entry: TensorEntry, fault: str) -> ModelError:
    return ModelError(
        f"the packed weight {entry.name!r} in {str(entry.file)!r} is broken: {fault}. Possible: "
        "weights as bitsandbytes saves them in 4 or 8 bit. Download the model again, or quantize "
        "the original with `lorakit quantize`."
    )
