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
import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorakit.base import four_bit
from lorakit.base.checkpoint import TensorEntry, read_entries, read_tensor
from lorakit.base.dtypes import TORCH_DTYPES
from lorakit.base.four_bit import BLOCK_SIZES, FourBitWeight
from lorakit.base.storages import int8
from lorakit.base.storages.int8 import Int8Weight
from lorakit.errors import ModelError
from lorakit.kernels.reference.dynamic8 import dynamic_map
from lorakit.kernels.reference.four_bit import CODE_VALUES, NESTED_BLOCK_SIZE, code_values

STATE = "quant_state.bitsandbytes__"
COMPANION = re.compile(
    r"(?P<path>.+)\.(?:weight\.(?P<four_bit>absmax|quant_map|nested_absmax|nested_quant_map"
    r"|quant_state\.bitsandbytes__[a-z0-9]+)|(?P<eight_bit>SCB|weight_format))"
)
MAX_STATE_BYTES = 4096
# Both libraries compute the maps; another build of torch may round the last bit otherwise.
MAP_TOLERANCE = 1e-6
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")

Packed = FourBitWeight | Int8Weight


@dataclass(frozen=True)
class PackedEntry:
    """One packed weight of a checkpoint, its tensors checked against each other.

    Attributes:
        weight: the tensor with the codes.
        companions: {suffix, such as `absmax`: the tensor}.
        quantization: the storage that holds it: "nf4", "fp4" or "int8".
        shape: of the dense weight, (O, I) for linear layers (and for GPT-2's `Conv1D` too).
        dtype: that it was packed from; float16 in int8, which rounds to it.
        block_size: weights per scale; of int8, a row.
        nested_offset: the mean of the block scales; None without double quantization.
    """

    weight: TensorEntry
    companions: dict[str, TensorEntry]
    quantization: str
    shape: torch.Size
    dtype: torch.dtype
    block_size: int
    nested_offset: float | None = None

    @property
    def double_quantization(self) -> bool:
        return self.nested_offset is not None

    def as_dense(self, dtype: torch.dtype) -> TensorEntry:
        """The same place as if it held the dense weight in `dtype`."""
        name = next(name for name, known in TORCH_DTYPES.items() if known == dtype)
        return replace(self.weight, dtype=name, shape=tuple(self.shape))

    def empty(self, dtype: torch.dtype) -> Packed:
        """The storage on the meta device; `dtype` is that of its dense weight."""
        if self.quantization == int8.QUANTIZATION:
            return int8.empty(self.shape, dtype)
        return four_bit.empty(
            self.quantization, self.shape, dtype, self.block_size, self.double_quantization
        )

    def read(self, dtype: torch.dtype) -> Packed:
        """The storage over the very bytes of the file; `dtype` is that of its dense weight."""
        stored = read_tensor(self.weight)
        if self.quantization == int8.QUANTIZATION:
            return Int8Weight(stored, read_tensor(self.companions["SCB"]), dtype)
        nested_absmax = nested_offset = None
        if self.nested_offset is not None:
            nested_absmax = read_tensor(self.companions["nested_absmax"])
            nested_offset = torch.tensor(self.nested_offset, dtype=torch.float32)
        return FourBitWeight(
            self.quantization,
            stored.view(-1).view(torch.uint8)[: (self.shape.numel() + 1) // 2],
            read_tensor(self.companions["absmax"]),
            self.shape,
            dtype,
            block_size=self.block_size,
            nested_absmax=nested_absmax,
            nested_offset=nested_offset,
        )


def packed_from(entry: PackedEntry, config: dict[str, Any]) -> torch.dtype:
    """The dtype of the weight that was packed, which a dense copy of the checkpoint has.

    Args:
        config: the values of the checkpoint's config.json: LLM.int8 rounds every weight to float16
            and does not say what it was.
    """
    named = config.get("dtype", config.get("torch_dtype"))
    if entry.quantization == int8.QUANTIZATION and named in DTYPES:
        return DTYPES[named]
    return entry.dtype


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
            raise _broken(stray, f"it belongs to {name!r}, which is missing")
        check = _eight_bit if parts.keys() & {"SCB", "weight_format"} else _four_bit
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


def _eight_bit(weight: TensorEntry, parts: dict[str, TensorEntry]) -> PackedEntry:
    strange = sorted(parts.keys() - {"SCB", "weight_format"})
    if strange:
        raise _broken(weight, f"it has both 8-bit companions and {strange[0]!r}")
    if "SCB" not in parts:
        raise _broken(weight, "its companion 'SCB' is missing")
    _check_header(weight, weight, ("I8",), weight.shape)
    if len(weight.shape) != 2:
        raise _broken(weight, f"it has the shape {weight.shape}, not two dimensions")
    _check_header(weight, parts["SCB"], ("F32",), weight.shape[:-1])
    if "weight_format" in parts:
        _check_header(weight, parts["weight_format"], ("U8",), ())
        if read_tensor(parts["weight_format"]).item() != 0:
            raise _broken(weight, "its 'weight_format' is not 0 (row-major), the one still in use")
    _check_finite(weight, "SCB", read_tensor(parts["SCB"]))
    shape = torch.Size(weight.shape)
    return PackedEntry(weight, parts, int8.QUANTIZATION, shape, torch.float16, shape[-1])


def _four_bit(weight: TensorEntry, parts: dict[str, TensorEntry]) -> PackedEntry:
    states = [suffix for suffix in parts if suffix.startswith(STATE)]
    known = [f"{STATE}{name}" for name in CODE_VALUES]
    if len(states) != 1 or states[0] not in known:
        raise _broken(weight, f"its states are {states}; possible: one of {', '.join(known)}")
    state = _read_state(weight, parts[states[0]], states[0].removeprefix(STATE))
    nested = "nested_offset" in state
    needed = {"absmax", "quant_map", states[0]}
    needed |= {"nested_absmax", "nested_quant_map"} if nested else set()
    if parts.keys() != needed:
        odd = sorted(parts.keys() ^ needed)[0]
        raise _broken(weight, f"its companion {odd!r} is {'extra' if odd in parts else 'missing'}")
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
        raise _broken(weight, f"its state has {size} elements of {entry.dtype}, not a short text")
    try:
        state = json.loads(read_tensor(entry).numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise _broken(weight, f"its state is not JSON ({error})") from error
    plain = {"quant_type", "blocksize", "dtype", "shape"}
    nested = {"nested_blocksize", "nested_dtype", "nested_offset"}
    if not isinstance(state, dict) or state.keys() not in (plain, plain | nested):
        raise _broken(weight, f"its state is not an object of {', '.join(sorted(plain))}")
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
            raise _broken(weight, f"its state has {key} = {state[key]!r}")
    return state


def _check_sizes(entry: PackedEntry) -> None:
    weight, parts = entry.weight, entry.companions
    num_bytes, num_weights = weight.stop - weight.start, math.prod(entry.shape)
    itemsize = TORCH_DTYPES[weight.dtype].itemsize
    if num_bytes != -(-((num_weights + 1) // 2) // itemsize) * itemsize:
        raise _broken(
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
            raise _broken(entry.weight, f"its {suffix!r} is not that of {entry.quantization}")


def _check_header(
    weight: TensorEntry, part: TensorEntry, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    if part.dtype not in dtypes or part.shape != shape:
        raise _broken(
            weight,
            f"{part.name!r} is {part.dtype} {part.shape}, not {'/'.join(dtypes)} {shape}",
        )


def _check_finite(weight: TensorEntry, suffix: str, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise _broken(weight, f"its {suffix!r} has values that are not finite")


def _broken(entry: TensorEntry, fault: str) -> ModelError:
    return ModelError(
        f"the packed weight {entry.name!r} in {str(entry.file)!r} is broken: {fault}. Possible: "
        "weights as bitsandbytes saves them in 4 or 8 bit. Download the model again, or quantize "
        "the original with `lorakit quantize`."
    )
