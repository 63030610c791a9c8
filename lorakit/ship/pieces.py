"""What a merged checkpoint consists of: one piece per tensor, made when it is written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters import kinds
from lorakit.adapters.contract import Factors, Kind, NormCache
from lorakit.adapters.low_rank import subtract, wide
from lorakit.adapters.save import PREFIX
from lorakit.adapters.store import StoredAdapter
from lorakit.adapters.targets import features, module_rank_and_alpha, scaling_of
from lorakit.base.checkpoint import TensorEntry, read_entries
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.origin import Origin, origins_of
from lorakit.base.storages import Storage
from lorakit.base.storages.dense import DenseWeight
from lorakit.errors import AdapterError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

Change = Callable[[torch.Tensor], torch.Tensor]

NUM_PROBES, PROBE_SEED = 16, 0


@dataclass(frozen=True)
class Packing:
    """How the base stored its linear weights in training: a storage and the names of its layers.

    `dtype` is the one it computed in: weights were packed from it, and unpacked to it.
    """

    storage: Storage
    layers: frozenset[str]
    block_size: int
    double_quantization: bool
    dtype: torch.dtype

    def dequantized(
        self, weight: torch.Tensor, taken: Factors | None = None, scaling: float = 1.0
    ) -> torch.Tensor:
        """What the base computed with in place of `weight` (O, I), once an init had taken
        `scaling * B @ A` of the factors `taken` out of it."""
        weight = weight.to(self.dtype)
        packed = self.storage.pack(
            weight if taken is None else subtract(weight, taken, scaling),
            block_size=self.block_size,
            double_quantization=self.double_quantization,
        )
        return packed.dequantize()


@dataclass(frozen=True)
class Made:
    """A tensor to write, and its relative error against base and adapter in float64."""

    value: torch.Tensor
    error: float


@dataclass(frozen=True)
class Piece:
    """One tensor to write.

    Attributes:
        name: in the written checkpoint.
        layer: the module it belongs to, for messages.
        source: the checkpoint's tensor; None when the adapter brings the tensor.
        shape, dtype: as written; `dtype` None for a tensor that is copied as it is.
        num_bytes: as written.
        base: the weight of the base in training, from the source; None: the source itself.
        change: what the adapter makes of the base's weight, computed in its dtype or float32, the
            wider one; None: nothing.
        error_of: the relative error of (the base's weight, the merged one); None: there is none.
    """

    name: str
    layer: str
    source: Origin | None
    shape: torch.Size
    dtype: torch.dtype | None
    num_bytes: int
    base: Change | None = None
    change: Change | None = None
    error_of: Callable[[torch.Tensor, torch.Tensor], float] | None = None

    @property
    def is_changed(self) -> bool:
        return self.base is not None or self.change is not None

    @torch.no_grad()
    def make(self) -> Made:
        """Read the source and compute the tensor to write."""
        value = torch.empty(0) if self.source is None else self.source.read()
        if self.dtype is None:
            return Made(value, 0.0)
        value = value if self.base is None else self.base(value)
        if self.change is None:
            return Made(value.to(self.dtype).contiguous(), 0.0)
        # Rounded once, to the dtype that is written.
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        merged = self.change(wide).to(self.dtype).contiguous()
        return Made(merged, 0.0 if self.error_of is None else self.error_of(value, merged))


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
        packing: layers whose dequantized weight stands for the original one.
        dtype: of the result; None: each tensor as stored.

    Raises:
        AdapterError: a weight to change is computed from several tensors of the checkpoint, or the
            adapter's init has to be done again on the base.
    """
    if stored.is_redone:
        raise AdapterError(
            f"the adapter has init_lora_weights {stored.config.init_lora_weights!r}, which has to "
            "be done again on the loaded base; possible in a folder merge: an adapter with its "
            "start beside it. Load it with lorakit.load_adapter and save it with "
            "lorakit.save_adapter, then merge that."
        )
    entries = read_entries(folder)
    origins = origins_of(empty, entries)
    state = empty.state_dict()
    changes = _Changes(empty, stored, packing)
    pieces: dict[str, Piece] = {}
    for parameter in changes.parameters:
        source = _source(parameter, origins, empty)
        name = source.tensor if parameter in origins else parameter
        as_stored = TORCH_DTYPES[entries[source.tensor].dtype]
        # Some parameters stay float32 in every dtype of the model.
        out = as_stored if dtype is None else state[parameter].dtype
        pieces[name] = changes.piece(name, parameter, source, state[parameter].shape, out)
        # What was tied to it keeps the old values, and needs a tensor of its own now.
        for partner in tied_parameters(empty, parameter):
            if partner not in origins and partner not in changes.parameters:
                entry = entries[source.tensor]
                pieces[partner] = _copied(partner, entry, source, dtype)
    kept_dtypes = {o.tensor: state[name].dtype for name, each in origins.items() for o in each}
    for name, entry in entries.items():
        if name not in pieces:
            kept = None if dtype is None else kept_dtypes.get(name, dtype)
            pieces[name] = _copied(name, entry, Origin(entry.file, name, False), kept)
    order = [*entries, *(name for name in pieces if name not in entries)]
    return [pieces[name] for name in order]


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
) -> Origin:
    """The one checkpoint tensor behind a parameter, or behind the one it is tied to."""
    names = [parameter, *tied_parameters(empty, parameter)]
    found = next((origins[name] for name in names if name in origins), ())
    if len(found) != 1 or found[0].converted:
        raise AdapterError(
            f"{parameter!r} is made of {len(found)} tensors of the checkpoint, converted when it "
            "is loaded; possible in a folder merge: weights stored as they are. Merge in memory "
            "with lorakit.merge(model) and save the result."
        )
    return found[0]


class _Changes:
    """Which parameters change, and how."""

    def __init__(self, empty: PreTrainedModel, stored: StoredAdapter, packing: Packing) -> None:
        self._empty, self._stored, self._packing = empty, stored, packing
        self._ranks = module_rank_and_alpha(stored.targets.adapted, stored.config)
        self._replaced = _replaced_parameters(stored)
        layers = [*stored.targets.adapted, *sorted(packing.layers - stored.targets.adapted.keys())]
        weights = [f"{layer}.weight" for layer in layers]
        self.parameters = [name for name in weights if name not in self._replaced]
        self.parameters += self._replaced

    def piece(
        self, name: str, parameter: str, source: Origin, shape: torch.Size, dtype: torch.dtype
    ) -> Piece:
        """The changed tensor for a parameter of the model, called `name` in the checkpoint."""
        layer = parameter.rpartition(".")[0]
        num_bytes = shape.numel() * dtype.itemsize
        if parameter in self._replaced:
            value = self._replaced[parameter]
            return Piece(name, layer, None, shape, dtype, num_bytes, change=lambda _: value)
        transposed = isinstance(self._empty.get_submodule(layer), Conv1D)
        base = change = error_of = None
        start = self._stored.starts.get(layer)
        kind = self._kind(layer) if layer in self._ranks else None
        if layer in self._packing.layers:
            taken = None if start is None else start.subtracted
            scaling = 1.0 if kind is None else kind.scaling
            base = _oriented(
                lambda weight: self._packing.dequantized(weight, taken, scaling), transposed
            )
        elif start is not None and kind is not None:
            # Into the original weight goes what training changed since the start.
            began = Factors(start.lora_A, start.lora_B)
            base = _oriented(lambda weight: subtract(wide(weight), began, kind.scaling), transposed)
        if kind is not None:
            change = _oriented(kind.merged_weight, transposed)
            error_of = _ErrorOnProbes(kind, transposed=transposed)
        return Piece(name, layer, source, shape, dtype, num_bytes, base, change, error_of)

    def _kind(self, layer: str) -> Kind:
        r, alpha = self._ranks[layer]
        config = self._stored.config
        kind = kinds.kind(config.kind_name)(
            *features(self._stored.targets.adapted[layer]),
            r,
            scaling_of(r, alpha, use_rslora=config.use_rslora),
            device=torch.device("cpu"),
            norm_cache=NormCache(),
        ).requires_grad_(False)
        for suffix, parameter in kind.peft_tensors().items():
            parameter.copy_(self._stored.tensors[f"{PREFIX}{layer}.{suffix}"])
        return kind


class _ErrorOnProbes:
    """The relative error of a merged weight's product with random inputs, against the forward pass
    of the adapted layer in float64: what the adapter computes, not what its merge says.
    """

    def __init__(self, kind: Kind, *, transposed: bool) -> None:
        self._kind, self._transposed = kind, transposed

    def __call__(self, weight: torch.Tensor, merged: torch.Tensor) -> float:
        if self._transposed:
            weight, merged = weight.t(), merged.t()
        kind = copy.deepcopy(self._kind).double()
        trained = {name: tensor.clone() for name, tensor in kind.peft_tensors().items()}
        layer = FrozenLinear(DenseWeight(weight.double()))
        kind.begin(layer)  # norms of the frozen weight; it sets magnitudes, too
        for name, tensor in kind.peft_tensors().items():
            tensor.copy_(trained[name])
        generator = torch.Generator().manual_seed(PROBE_SEED)
        probes = torch.randn(NUM_PROBES, layer.in_features, generator=generator).double()
        exact = kind(probes, layer, probes)
        norm = exact.norm().clamp_min(torch.finfo(torch.float32).tiny)
        return float((probes @ merged.double().T - exact).norm() / norm)


def _replaced_parameters(stored: StoredAdapter) -> dict[str, torch.Tensor]:
    """{parameter of the plain model: its new value}: modules trained in full and trained biases."""
    replaced = {}
    for file_name, tensor in stored.tensors.items():
        name = file_name.removeprefix(PREFIX)
        if stored.targets.is_trained(name):
            replaced[name] = tensor
        elif name.endswith(".bias"):
            replaced[name.replace(".base_layer.bias", ".bias")] = tensor
    return replaced


def _oriented(change: Change, transposed: bool) -> Change:
    """`change` works on (O, I); Conv1D stores (I, O)."""
    if not transposed:
        return change
    return lambda weight: change(weight.t().contiguous()).t()
