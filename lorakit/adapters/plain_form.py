"""An adapter whose init changed the base, as a plain one for the unchanged base.

    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]

so the factors of a layer are stacked to rank 2r and its alpha grows with the rank until the scaling
is the same. Every kind depends on `W + s B A` alone, so a DoRA becomes a DoRA of twice the rank,
with the same magnitudes. Exact on a dense base; a quantized one rounds `W - s B0 A0` otherwise
than W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorakit.adapters.contract import Start


@dataclass(frozen=True)
class Widened:
    """How ranks and alphas grow where the factors of every layer are stacked.

    Attributes:
        ranks, alphas: {module name: value}.
        rank_pattern, alpha_pattern, r, alpha: as configured, grown alike.
    """

    ranks: dict[str, float]
    alphas: dict[str, float]
    rank_pattern: dict[str, float]
    alpha_pattern: dict[str, float]
    r: int
    alpha: float


def widened(
    wanted: Mapping[str, tuple[int, float]],
    starts: Mapping[str, Start],
    *,
    rank_pattern: Mapping[str, int],
    alpha_pattern: Mapping[str, float],
    r: int,
    alpha: float,
    use_rslora: bool,
) -> Widened:
    """Ranks and alphas of the plain form.

    Args:
        wanted: {module name: (rank, alpha)} of the adapter.
        starts: {module name: its start}, for modules whose start is part of the base.
        rank_pattern, alpha_pattern, r, alpha, use_rslora: as configured.
    """
    grown = {name for name, start in starts.items() if start.subtracted is not None}
    factor = math.sqrt(2) if use_rslora else 2.0  # of alpha / sqrt(r), and of alpha / r
    ranks = {name: float(2 * rank if name in grown else rank) for name, (rank, _) in wanted.items()}
    alphas = {
        name: value * factor if name in grown else value for name, (_, value) in wanted.items()
    }
    if not grown:
        return Widened(ranks, alphas, dict(rank_pattern), dict(alpha_pattern), r, alpha)
    return Widened(
        ranks,
        alphas,
        {name: 2 * rank for name, rank in rank_pattern.items()},
        {name: value * factor for name, value in alpha_pattern.items()},
        2 * r,
        alpha * factor,
    )


def stacked(suffix: str, tensor: torch.Tensor, start: Start | None) -> torch.Tensor:
    """One tensor of a layer in the plain form; `suffix` is its name in PEFT's file."""
    if start is None or start.subtracted is None:
        return tensor
    taken = start.subtracted
    if suffix == "lora_A.weight":
        return torch.cat([tensor, taken.lora_A.to(tensor)], dim=0)
    if suffix == "lora_B.weight":
        return torch.cat([tensor, -taken.lora_B.to(tensor)], dim=1)
    return tensor
