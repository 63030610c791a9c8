"""What a merged checkpoint consists of: one piece per tensor, made when it is written.

Tensors that transformers makes one parameter of (a layer's experts) are one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.contract import Factors, ParameterMerge, constant_merge
from lorakit.adapters.low_rank import subtract, wide
from lorakit.adapters.make import make_modules
from lorakit.adapters.modules import Shared
from lorakit.adapters.save import PREFIX, module_tensors
from lorakit.adapters.store import StoredAdapter, fill
from lorakit.adapters.targets import module_rank_and_alpha, scaling_of
from lorakit.base.as_stored import stored_weights
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.fusion import Fusion
from lorakit.base.origin import Origin
from lorakit.base.storages import Storage
from lorakit.errors import AdapterError, ModelError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Packing:
    """How the base stored its weights in training: a storage and the names of the parameters.

    `dtype` is the one it computed in: weights were packed from it, and unpacked to it. `is_stored`
    says that the checkpoint itself holds them packed.
    """

    storage: Storage
    parameters: frozenset[str]
    block_size: int
    double_quantization: bool
    dtype: torch.dtype
    is_stored: bool = False

    def dequantized(
        self, weight: torch.Tensor, taken: Factors | None = None, scaling: float = 1.0
    ) -> torch.Tensor:
        """What the base computed with in place of `weight` (as its storage holds it), once an init
        had taken `scaling * B @ A` of the factors `taken` out of it.
        """
        weight = weight.to(self.dtype)
        packed = self.storage.pack(
            weight if taken is None else subtract(weight, taken, scaling),
            block_size=self.block_size,
            double_quantization=self.double_quantization,
        )
        return packed.dequantize()


@dataclass(frozen=True)
class Made:
    """Tensors to write by name, and their relative error against base and adapter in float64."""

    tensors: dict[str, torch.Tensor]
    error: float


@dataclass(frozen=True)
class Piece:
    """One tensor to write, or several that are parts of one parameter.

    Attributes:
        name: in the written checkpoint; of several the first one's.
        layer: the module it belongs to, for messages.
        source: the checkpoint's tensor, or what several make; None when the adapter brings the
            tensor.
        shape, dtype: as written; `dtype` None for a tensor that is copied as it is.
        num_bytes: as written.
        base: the weight of the base in training, from the source; None: the source itself.
        change: what the adapter makes of the base's weight, computed in its dtype or float32, the
            wider one; None: nothing.
        error_of: the relative error of (the base's weight, the merged one); None: there is none.
    """

    name: str
    layer: str
    source: Origin | Fusion | None
    shape: torch.Size
    dtype: torch.dtype | None
    num_bytes: int
    base: Change | None = None
    change: Change | None = None
    error_of: Callable[[torch.Tensor, torch.Tensor], float] | None = None

    @property
    def is_changed(self) -> bool:
        return self.base is not None or self.change is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors it writes."""
        return self.source.names if isinstance(self.source, Fusion) else (self.name,)

    @torch.no_grad()
    def make(self) -> Made:
        """Read the source and compute what is to be written."""
        value = torch.empty(0) if self.source is None else self.source.dense()
        if self.dtype is None:
            return Made({self.name: value}, 0.0)
        value = value if self.base is None else self.base(value)
        if self.change is None:
            return Made(self._named(value.to(self.dtype).contiguous()), 0.0)
        # Rounded once, to the dtype that is written.
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        merged = self.change(wide).to(self.dtype).contiguous()
        error = 0.0 if self.error_of is None else self.error_of(value, merged)
        return Made(self._named(merged), error)

    def _named(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
        if isinstance(self.source, Fusion):
            return self.source.split(value)
        return {self.name: value}


def make_pieces(
    folder: Path,
    empty: PreTrainedModel,
    stored: StoredAdapter,
    packing: Packing,
    dtype: torch.dtype | None,
) -> list[Piece]:
    """Every tensor of the merged checkpoint, in the order of the base's, the adapter's own last.

    Args:
        folder: of the base.
        empty: the base on the meta device.
        stored: the adapter.
        packing: parameters whose dequantized value stands for the original one.
        dtype: of the result; None: each tensor as stored.

    Raises:
        AdapterError: a weight to change is computed from tensors of the checkpoint in a way that
            cannot be undone, or the adapter's init has to be done again on the base.
    """
    if stored.is_redone:
        raise AdapterError(
            f"the adapter has init_lora_weights {stored.config.init_lora_weights!r}, which has to "
            "be done again on the loaded base; possible in a folder merge: an adapter with its "
            "start beside it. Load it with lorakit.load_adapter and save it with "
            "lorakit.save_adapter, then merge that."
        )
    weights = stored_weights(folder, empty, is_packed=packing.is_stored)
    packed, origins = weights.packed, weights.origins
    entries = weights.entries | {n: entry.as_dense(packing.dtype) for n, entry in packed.items()}
    state = empty.state_dict()
    changes = _Changes(empty, stored, packing, stored_names=origins.keys())
    pieces: dict[str, Piece] = {}
    for parameter in changes.parameters:
        source = _source(parameter, origins, empty)
        first = source.names[0]
        name = first if parameter in origins else parameter
        as_stored = TORCH_DTYPES[entries[first].dtype]
        # Some parameters stay float32 in every dtype of the model.
        out = as_stored if dtype is None else state[parameter].dtype
        piece = changes.piece(name, parameter, source, state[parameter].shape, out)
        pieces |= dict.fromkeys(piece.names, piece)
        # What was tied to it keeps the old values, and needs a tensor of its own now.
        for partner in tied_parameters(empty, parameter):
            own = partner not in origins and partner not in changes.parameters
            if own and partner not in changes.following:
                assert isinstance(source, Origin)  # nothing is tied to a part of something
                pieces[partner] = _copied(partner, entries[first], source, dtype)
    kept_dtypes = {o.tensor: state[name].dtype for name, each in origins.items() for o in each}
    for name, entry in entries.items():
        if name not in pieces:
            kept = None if dtype is None else kept_dtypes.get(name, dtype)
            if name in packed and dtype is None:
                kept = packing.dtype
            source = Origin(entry.file, name, False, packed.get(name))
            pieces[name] = _copied(name, entry, source, kept)
    order = [*entries, *(name for name in pieces if name not in entries)]
    # A piece of several tensors is where the first of them was.
    return list({id(pieces[name]): pieces[name] for name in order}.values())


def tied_parameters(empty: PreTrainedModel, parameter: str) -> list[str]:
    """Names of the other parameters that are the same tensor as `parameter`."""
    shared = empty.get_parameter(parameter)
    named = empty.named_parameters(remove_duplicate=False)
    return [name for name, other in named if other is shared and name != parameter]


def _copied(name: str, entry: TensorEntry, source: Origin, dtype: torch.dtype | None) -> Piece:
    shape = torch.Size(entry.shape)
    if dtype is None or entry.dtype not in TORCH_DTYPES:
        return Piece(name, name, source, shape, None, entry.stop - entry.start)
    return Piece(name, name, source, shape, dtype, shape.numel() * dtype.itemsize)


def _source(
    parameter: str, origins: Mapping[str, tuple[Origin, ...]], empty: PreTrainedModel
) -> Origin | Fusion:
    """What the checkpoint has of a parameter, or of the one it is tied to."""
    names = [parameter, *tied_parameters(empty, parameter)]
    found = next((origins[name] for name in names if name in origins), ())
    if len(found) == 1 and not found[0].converted:
        return found[0]
    try:
        return Fusion(empty, parameter, found)
    except ModelError as error:
        raise AdapterError(
            f"{error} Merge in memory with lorakit.merge(model) and save the result."
        ) from error


class _Changes:
    """Which parameters change, and how; `following` are those that stay tied to changed ones."""

    def __init__(
        self,
        empty: PreTrainedModel,
        stored: StoredAdapter,
        packing: Packing,
        stored_names: Collection[str],
    ) -> None:
        self._empty, self._stored, self._packing = empty, stored, packing
        self._merges, leaders = _merges(stored)
        self.following = leaders.keys()
        # A checkpoint may hold both of a tied pair.
        self._merges |= {
            name: self._merges[leader] for name, leader in leaders.items() if name in stored_names
        }
        packed = sorted(packing.parameters - self._merges.keys())
        self.parameters = [*self._merges, *packed]

    def piece(
        self,
        name: str,
        parameter: str,
        source: Origin | Fusion,
        shape: torch.Size,
        dtype: torch.dtype,
    ) -> Piece:
        """The changed tensor for a parameter of the model, called `name` in the checkpoint."""
        layer = parameter.rpartition(".")[0]
        num_bytes = shape.numel() * dtype.itemsize
        merge = self._merges.get(parameter)
        if merge is not None and not merge.reads_base:
            return Piece(name, layer, None, shape, dtype, num_bytes, change=merge.change)
        base = self._base(parameter, layer, source)
        if merge is None:
            return Piece(name, layer, source, shape, dtype, num_bytes, base)
        return Piece(name, layer, source, shape, dtype, num_bytes, base, merge.change, merge.error)

    def _base(self, parameter: str, layer: str, source: Origin | Fusion) -> Change | None:
        """What the layer computed with in training, from its weight in the checkpoint."""
        transposed = isinstance(self._empty.get_submodule(layer), Conv1D)
        start = self._stored.starts.get(layer)
        scaling = self._scaling(layer) if start is not None else 1.0
        if parameter in self._packing.parameters:
            taken = None if start is None else start.subtracted

            def dequantized(weight: torch.Tensor) -> torch.Tensor:
                return self._packing.dequantized(weight, taken, scaling)

            if transposed and isinstance(source, Origin) and source.packed is not None:
                return _turned(dequantized)
            return _oriented(dequantized, transposed)
        if start is None or parameter != f"{layer}.weight":
            return None
        # Into the original weight goes what training changed since the start.
        began = Factors(start.lora_A, start.lora_B)
        return _oriented(lambda weight: subtract(wide(weight), began, scaling), transposed)

    def _scaling(self, layer: str) -> float:
        config = self._stored.config
        r, alpha = module_rank_and_alpha(self._stored.targets.adapted, config)[layer]
        return scaling_of(r, alpha, use_rslora=config.use_rslora)


def _merges(stored: StoredAdapter) -> tuple[dict[str, ParameterMerge], dict[str, str]]:
    """{parameter of the plain model: how it is merged} of adapted modules and trained biases, and
    {parameter: the one that it stays tied to}.
    """
    modules = make_modules(
        stored.targets, stored.config, device=torch.device("cpu"), shared=Shared.fresh()
    )
    own = module_tensors(modules)
    fill(own, stored.tensors)
    merges = {
        f"{name}.{parameter}".removesuffix("."): merge
        for name, module in modules.items()
        for parameter, merge in module.requires_grad_(False).merges().items()
    }
    for file_name in stored.tensors.keys() - own.keys():
        name = file_name.removeprefix(PREFIX).replace(".base_layer.bias", ".bias")
        merges[name] = constant_merge(stored.tensors[file_name])
    leaders = {
        f"{partner}.weight": f"{name}.weight"
        for name, module in modules.items()
        for partner in module.tied
    }
    return merges, leaders


def _turned(change: Change) -> Change:
    """`change` works on (O, I), as a packed weight is in any layer; Conv1D needs (I, O)."""
    return lambda weight: change(weight).t()


def _oriented(change: Change, transposed: bool) -> Change:
    """`change` works on (O, I); Conv1D stores (I, O)."""
    if not transposed:
        return change
    return lambda weight: change(weight.t().contiguous()).t()
