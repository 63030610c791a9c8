"""A DoRA as a LoRA: the best approximation of what it changes in the base's weights.

O out_features, I in_features. `W' - W = diag(c - 1) W + c * scaling * B A` with
`c = magnitude / ||W + scaling * B A||` per row: the first term scales the rows of W, so it has the
rank of W wherever a row's c is not 1. No low-rank adapter is exact; the error says by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.arithmetic.low_rank import LowRank
from lorakit.adapters.arithmetic.made import Limit, MadeLayer, finish_layer
from lorakit.adapters.arithmetic.saved import BIAS, MAGNITUDE, SavedAdapter
from lorakit.adapters.contract import NormCache
from lorakit.adapters.kinds.dora import Dora
from lorakit.adapters.low_rank import randomized_svd
from lorakit.base import hub
from lorakit.base.config import read_config
from lorakit.base.meta_model import plain_model
from lorakit.base.origin import Origin, origins
from lorakit.base.packing import packable_linears
from lorakit.base.quantization_config import CHECKPOINT, KEY, check_asked
from lorakit.base.storages import storage
from lorakit.errors import AdapterError
from lorakit.progress import bar

# Of the subspace iteration: spectra of a DoRA's change fall slowly.
OVERSAMPLING, ITERATIONS, SEED = 16, 8, 0


@dataclass(frozen=True)
class Base:
    """The weights that an adapter was trained on.

    Attributes:
        model: folder, hub id, or `builtin`.
        revision: of a hub id.
        quantization: how they were stored in training; None: as they are in the files.
        double_quantization, block_size: of a quantization that the files do not have.
        dtype: that they were computed in; None: as in the files.
    """

    model: str | Path
    revision: str | None = None
    quantization: str | None = None
    double_quantization: bool = True
    block_size: int = 64
    dtype: torch.dtype | None = None


def lora_of_dora(
    saved: SavedAdapter, base: Base, limit: Limit, dtype: torch.dtype | None
) -> dict[str, MadeLayer]:
    """{layer name: its approximation}; the base is read layer by layer from its files.

    Raises:
        AdapterError: a layer that is not in the base, has another shape there, or cannot be
            converted.
        ModelError: the base cannot be read.
    """
    _refuse_odd_layers(saved)
    read = _BaseWeights(base)
    made = {}
    with bar("converting", total=len(saved.layers)) as running:
        for name, layer in saved.layers.items():
            weight = read(name)
            if tuple(weight.shape) != layer.shape[1:]:
                raise AdapterError(
                    f"{name} is {tuple(weight.shape)} in the base, {layer.shape[1:]} in "
                    f"{saved.folder}; possible is the base it was trained on. Fix base."
                )
            change = _merged(saved, name, weight) - weight
            made[name] = finish_layer(
                name,
                best_approximation(change, limit),
                layer.layout,
                dtype or torch.float32,
                rank_before=layer.r,
                exact_norm=float(change.norm()),
                error_of=_distance_from(change),
            )
            running.advance()
    return made


def best_approximation(change: torch.Tensor, limit: Limit) -> LowRank:
    """Of a dense (O, I) change: by SVD, or by subspace iteration where the rank is far below."""
    rank = limit.rank
    if rank is not None and 4 * (rank + OVERSAMPLING) <= min(change.shape):
        generator = torch.Generator().manual_seed(SEED)
        u, s, vt = randomized_svd(change, rank, ITERATIONS, generator, oversampling=OVERSAMPLING)
    else:
        u, s, vt = torch.linalg.svd(change, full_matrices=False)
        rank = limit.rank_of(s.unsqueeze(0))
    root = s[:rank].sqrt()
    return LowRank((u[:, :rank] * root)[None], (root.unsqueeze(1) * vt[:rank])[None], 1.0)


def _refuse_odd_layers(saved: SavedAdapter) -> None:
    odd = [
        name
        for name, layer in saved.layers.items()
        if layer.layout != "linear" or MAGNITUDE not in layer.tensors or BIAS in layer.tensors
    ]
    if odd:
        raise AdapterError(
            f"{saved.folder} holds a DoRA of {odd[0]}, no linear layer or one with lora_bias; "
            "possible are linear layers without it. Merge it with the tool that trained it."
        )


def _merged(saved: SavedAdapter, name: str, weight: torch.Tensor) -> torch.Tensor:
    """The weight (O, I) that the DoRA of a layer computes with, float64."""
    change = saved.low_rank(name)
    _, out_features, in_features = change.shape
    kind = Dora(
        in_features,
        out_features,
        change.rank,
        change.scaling,
        device=torch.device("cpu"),
        norm_cache=NormCache(),
    ).double()
    kind.requires_grad_(False)
    kind.lora_A.copy_(change.down[0])
    kind.lora_B.copy_(change.up[0])
    kind.lora_magnitude_vector.copy_(saved.magnitude(name))
    return kind.merged_weight(weight)


def _distance_from(change: torch.Tensor) -> Callable[[LowRank], float]:
    def distance(written: LowRank) -> float:
        return float((change - written.scaling * written.up[0] @ written.down[0]).norm())

    return distance


class _BaseWeights:
    """Weights (O, I) of a base by module name, float64, as the adapter was trained on them."""

    def __init__(self, base: Base) -> None:
        self._base = base
        folder = hub.resolve(base.model, base.revision, given_as="--base")
        values = read_config(folder / "config.json")
        as_stored = CHECKPOINT if KEY in values else "none"
        self._quantization = base.quantization or as_stored
        check_asked(values, self._quantization)
        self._plain: PreTrainedModel = plain_model(folder)
        self._origins = origins(folder)
        to_pack = self._quantization not in ("none", CHECKPOINT)
        self._to_pack = frozenset(packable_linears(self._plain) if to_pack else ())

    def __call__(self, name: str) -> torch.Tensor:
        origin = self._origin(name)
        if origin.packed is not None:
            packed = origin.packed.read(self._base.dtype or torch.float32)
            return packed.dequantize().double()
        weight = origin.read()
        if isinstance(self._plain.get_submodule(name), Conv1D):
            weight = weight.t()
        weight = weight.to(self._base.dtype or weight.dtype)
        if name in self._to_pack:
            weight = (
                storage(self._quantization)
                .pack(
                    weight.contiguous(),
                    block_size=self._base.block_size,
                    double_quantization=self._base.double_quantization,
                )
                .dequantize()
            )
        return weight.double()

    def _origin(self, name: str) -> Origin:
        weight = f"{name}.weight"
        ties: dict[str, str] = self._plain.all_tied_weights_keys
        # A checkpoint holds a tied weight under one of its names.
        names = [weight, ties.get(weight), *(tied for tied, to in ties.items() if to == weight)]
        found = next((self._origins[n] for n in names if n in self._origins), ())
        if len(found) != 1 or found[0].converted:
            raise AdapterError(
                f"{name}.weight is made of {len(found)} tensors of {str(self._base.model)!r}; "
                "possible is one, stored as it is. Give the base that the adapter was trained on."
            )
        return found[0]
