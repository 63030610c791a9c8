"""What a merged checkpoint consists of: one piece per tensor, made when it is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.contract import Factors, ParameterMerge, constant_merge
from lorakit.adapters.low_rank import product
from lorakit.adapters.make import make_modules
from lorakit.adapters.modules import Shared
from lorakit.adapters.ranks import module_rank_and_alpha, scaling_of
from lorakit.adapters.save import PREFIX, module_tensors
from lorakit.adapters.store import StoredAdapter, fill
from lorakit.base.as_stored import stored_weights
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.config import read_config
from lorakit.base.dtypes import FLOATING_DTYPES
from lorakit.base.fusion import Fusion, source_of
from lorakit.base.origin import Origin
from lorakit.base.packed_entry import packed_from
from lorakit.errors import AdapterError, ModelError
from lorakit.ship.piece import Change, Packing, Piece


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
    values = read_config(folder / "config.json")
    unpacked = {name: packed_from(entry, values) for name, entry in packed.items()}
    dense = {name: entry.as_dense(unpacked[name]) for name, entry in packed.items()}
    entries = weights.entries | dense
    state = empty.state_dict()
    grown = {
        name: state[name].shape[0]
        for name in _vocabulary_parameters(empty) & origins.keys()
        if entries[origins[name][0].tensor].shape[0] < state[name].shape[0]
    }
    changes = _Changes(empty, stored, packing, grown, stored_names=origins.keys())
    pieces: dict[str, Piece] = {}
    for parameter in changes.parameters:
        source = _source(parameter, origins, empty)
        first = source.names[0]
        name = first if parameter in origins else parameter
        as_stored = FLOATING_DTYPES[entries[first].dtype]
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
            kept = unpacked.get(name) if dtype is None else kept_dtypes.get(name, dtype)
            source = Origin(entry.file, name, False, packed.get(name))
            pieces[name] = _copied(name, entry, source, kept)
    order = [*entries, *(name for name in pieces if name not in entries)]
    # A piece of several tensors is where the first of them was.
    return list({id(pieces[name]): pieces[name] for name in order}.values())


def _vocabulary_parameters(empty: PreTrainedModel) -> set[str]:
    """Names of the parameters of input embedding and output head."""
    tables = (empty.get_input_embeddings(), empty.get_output_embeddings())
    return {
        parameter
        for name, module in empty.named_modules()
        if module in tables
        for parameter, _ in module.named_parameters(name)
    }


def into_original(pieces: Sequence[Piece], faithful: Sequence[Piece]) -> list[Piece]:
    """The pieces of a merge into the checkpoint's own weights: what training changed, added to
    them.

    The change is that of the weights it was trained in, for every kind: a DoRA's magnitudes are
    norms of those.

    Args:
        pieces: made without a packing, of the original checkpoint.
        faithful: made with the packing of the training.
    """
    trained = {piece.parameter: piece for piece in faithful if piece.base is not None}
    return [
        replace(piece, base=None, change=None, started=None, trained=trained[piece.parameter])
        if piece.change is not None and piece.parameter in trained
        else piece
        for piece in pieces
    ]


def tied_parameters(empty: PreTrainedModel, parameter: str) -> list[str]:
    """Names of the other parameters that are the same tensor as `parameter`."""
    shared = empty.get_parameter(parameter)
    named = empty.named_parameters(remove_duplicate=False)
    return [name for name, other in named if other is shared and name != parameter]


def _copied(name: str, entry: TensorEntry, source: Origin, dtype: torch.dtype | None) -> Piece:
    shape = torch.Size(entry.shape)
    if dtype is None or entry.dtype not in FLOATING_DTYPES:
        return Piece(name, None, name, source, shape, None, entry.stop - entry.start)
    return Piece(name, None, name, source, shape, dtype, shape.numel() * dtype.itemsize)


def _source(
    parameter: str, origins: Mapping[str, tuple[Origin, ...]], empty: PreTrainedModel
) -> Origin | Fusion:
    """What the checkpoint has of a parameter, or of the one it is tied to."""
    names = [parameter, *tied_parameters(empty, parameter)]
    found = next((origins[name] for name in names if name in origins), ())
    try:
        return source_of(empty, parameter, found)
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
        grown: Mapping[str, int],
        stored_names: Collection[str],
    ) -> None:
        self._empty, self._stored, self._packing, self._grown = empty, stored, packing, grown
        self._merges, leaders = _merges(stored)
        self.following = leaders.keys()
        # A checkpoint may hold both of a tied pair.
        self._merges |= {
            name: self._merges[leader] for name, leader in leaders.items() if name in stored_names
        }
        packed = sorted(packing.parameters)
        self.parameters = list(dict.fromkeys([*self._merges, *packed, *grown]))

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
        piece = Piece(name, parameter, layer, source, shape, dtype, shape.numel() * dtype.itemsize)
        merge = self._merges.get(parameter)
        if merge is not None and not merge.reads_base:
            return replace(piece, source=None, change=merge.change)
        if parameter in self._packing.parameters:
            piece = replace(piece, base=self._base(layer, source))
        if parameter == f"{layer}.weight":
            piece = replace(piece, started=self._started(layer))
        piece = replace(piece, num_rows=self._grown.get(parameter))
        if merge is None:
            return piece
        return replace(piece, change=merge.change, error_of=merge.error)

    def _base(self, layer: str, source: Origin | Fusion) -> Change:
        """What the layer computed with in training, from its weight in the checkpoint."""
        transposed = isinstance(self._empty.get_submodule(layer), Conv1D)
        start = self._stored.starts.get(layer)
        scaling = self._scaling(layer) if start is not None else 1.0
        taken = None if start is None else start.subtracted

        def dequantized(weight: torch.Tensor) -> torch.Tensor:
            return self._packing.dequantized(weight, taken, scaling)

        if transposed and isinstance(source, Origin) and source.packed is not None:
            return _turned(dequantized)
        return _oriented(dequantized, transposed)

    def _started(self, layer: str) -> Change | None:
        """The weight before training, from what `_base` gives: the start's factors come back."""
        start = self._stored.starts.get(layer)
        if start is None:
            return None
        began, scaling = Factors(start.lora_A, start.lora_B), self._scaling(layer)
        transposed = isinstance(self._empty.get_submodule(layer), Conv1D)
        return _oriented(lambda weight: weight + product(weight, began, scaling), transposed)

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
