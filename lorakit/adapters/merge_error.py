"""How far a merged weight is from what the adapted layer computes in float64."""

from __future__ import annotations

import copy

import torch

from lorakit.adapters.contract import Kind
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages.dense import DenseWeight

NUM_PROBES, PROBE_SEED = 16, 0
CHUNK_VALUES = 1 << 20  # of a weight, in float64 at a time


class ProbedLinear(FrozenLinear):
    """A frozen layer without a bias whose products are float64, a few rows of the weight at a time:
    a whole weight in float64 would be the largest thing in memory.
    """

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return product_by_rows(self.stored.dequantize(), x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x)


@torch.no_grad()
def error_on_probes(kind: Kind, weight: torch.Tensor, merged: torch.Tensor) -> float:
    """The relative error of `merged` times random inputs, against the forward pass of the adapted
    layer in float64: what the adapter computes, not what its merge says. Norms that the kind takes
    of the frozen weight are float32, or that of a wider weight.

    Args:
        kind: the adapter; it is not changed.
        weight, merged: (O, I) of the base, and as merged.
    """
    layer = ProbedLinear(DenseWeight(weight))
    exact_kind = in_float64(kind, layer)
    generator = torch.Generator().manual_seed(PROBE_SEED)
    probes = torch.randn(NUM_PROBES, layer.in_features, generator=generator).double()
    return relative_difference(product_by_rows(merged, probes), exact_kind(probes, layer, probes))


def product_by_rows(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`x @ W.T` (..., O) of a weight (O, I), in the dtype of `x`; each row is cast on its own."""
    rows = max(1, CHUNK_VALUES // weight.shape[1])
    return torch.cat([x @ part.to(x.dtype).T for part in weight.split(rows)], dim=-1)


def in_float64(kind: Kind, layer: FrozenLinear) -> Kind:
    """A copy of `kind` in float64 whose norms are those of `layer`."""
    kind = copy.deepcopy(kind).double()
    trained = {name: tensor.clone() for name, tensor in kind.peft_tensors().items()}
    kind.begin(layer)  # norms of the frozen weight; it sets magnitudes, too
    for name, tensor in kind.peft_tensors().items():
        tensor.copy_(trained[name])
    return kind


def relative_difference(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """||actual - exact|| / ||exact||, of float64 tensors."""
    norm = exact.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return float((actual - exact).norm() / norm)
