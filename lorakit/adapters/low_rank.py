"""Arithmetic of low-rank factors that inits and what keeps their factors share.

O out_features, I in_features, R rank.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch

from lorakit.adapters.contract import Factors, InitRequest, Start
from lorakit.errors import AdapterError

# What `start_tensors` takes a start apart into.
PARTS = ("start_A", "start_B", "subtracted_A", "subtracted_B")


def wide(weight: torch.Tensor) -> torch.Tensor:
    """`weight` in float32, in which decompositions are computed (float64 stays)."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def balanced_factors(U: torch.Tensor, S: torch.Tensor, Vh: torch.Tensor, scaling: float) -> Factors:
    """Factors with `scaling * B @ A = U diag(S) Vh`, the singular values shared between them.

    Written as PEFT 0.21 writes it: another order of the same operations gives other last bits.
    """
    root = torch.diag(torch.sqrt(S / scaling))
    return Factors(root @ Vh, U @ root)


def subtract(weight: torch.Tensor, factors: Factors, scaling: float) -> torch.Tensor:
    """`weight - scaling * B @ A` (O, I), computed in float32 or wider, in the dtype of `weight`."""
    return (wide(weight) - product(weight, factors, scaling)).to(weight.dtype)


def product(weight: torch.Tensor, factors: Factors, scaling: float) -> torch.Tensor:
    """`scaling * B @ A` (O, I) where `weight` is, in float32 or wider."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    lora_A, lora_B = (f.to(weight.device, dtype) for f in (factors.lora_A, factors.lora_B))
    return scaling * lora_B @ lora_A


def randomized_svd(
    matrix: torch.Tensor,
    r: int,
    num_iterations: int,
    generator: torch.Generator,
    *,
    oversampling: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The r largest singular triplets U (O, r), S (r,), Vh (r, I) of `matrix` (O, I), about.

    Subspace iteration (Halko, Martinsson, Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1).

    Args:
        matrix: float32 or float64.
        r: how many.
        num_iterations: passes over the matrix and back.
        generator: CPU, of the random probe.
        oversampling: directions beyond r that are followed.
    """
    out_features, in_features = matrix.shape
    q = min(r + oversampling, out_features, in_features)
    probe = torch.randn(in_features, q, generator=generator).to(matrix)
    Q_OQ = torch.linalg.qr(matrix @ probe).Q
    for _ in range(num_iterations):
        # Orthonormalized at every half step: powers of it would drown the small directions.
        Q_OQ = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ Q_OQ).Q).Q
    U, S, Vh = torch.linalg.svd(Q_OQ.T @ matrix, full_matrices=False)
    return Q_OQ @ U[:, :r], S[:r], Vh[:r]


def refuse_rank_above(request: InitRequest) -> None:
    """Raise AdapterError where the layer has fewer directions than the rank asks for."""
    most = min(request.in_features, request.out_features)
    if request.r > most:
        raise AdapterError(
            f"rank {request.r} is more than {request.name!r} of shape ({request.out_features}, "
            f"{request.in_features}) has directions; with this init at most {most} is possible. "
            "Lower adapter.r, or give the layer its own in adapter.rank_pattern."
        )


def start_tensors(start: Start) -> dict[str, torch.Tensor]:
    """The factors of a start that is part of the base, by part, no tensor twice.

    Read back by `start_from`.
    """
    taken = start.subtracted
    tensors: dict[str, torch.Tensor] = {}
    if taken is not None:
        tensors |= {"subtracted_A": taken.lora_A, "subtracted_B": taken.lora_B}
    if start.corrects_base:
        tensors |= {"start_A": start.lora_A, "start_B": start.lora_B}
    return tensors


def start_from(tensors: Mapping[str, torch.Tensor]) -> Start:
    """The start that `start_tensors` took apart."""
    taken = None
    if "subtracted_A" in tensors:
        taken = Factors(tensors["subtracted_A"], tensors["subtracted_B"])
    if "start_A" in tensors:
        return Start(tensors["start_A"], tensors["start_B"], taken, True)
    assert taken is not None
    return Start(taken.lora_A, taken.lora_B, taken, True)


def spread(values: Sequence[float], unit: str = "") -> str:
    """`min 0.812, median 0.880, max 0.931`, each with the unit."""
    middle = statistics.median(values)
    named = (("min", min(values)), ("median", middle), ("max", max(values)))
    return ", ".join(f"{name} {value:.3f}{unit}" for name, value in named)
