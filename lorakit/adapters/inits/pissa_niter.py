"""PiSSA with a randomized SVD (Halko, Martinsson, Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1).

`pissa_niter_N` makes N subspace iterations. Where this departs from PEFT 0.21: the random matrix
comes from the request's generator, so that the same seed gives the same start, and it has
OVERSAMPLING columns more than the rank, as the paper advises; PEFT takes exactly r, unseeded.
"""

from __future__ import annotations

import torch

from lorakit.adapters import inits
from lorakit.adapters.contract import Factors, InitRequest, Start, nothing_to_prepare
from lorakit.adapters.low_rank import balanced_factors, refuse_rank_above, wide

NAMES = ("pissa_niter_N",)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = False
OVERSAMPLING = 10

prepare = nothing_to_prepare


def initialize(request: InitRequest) -> Start:
    """Factors of the principal part as far as N iterations find it, taken out of the base."""
    refuse_rank_above(request)
    weight = wide(request.original())
    num_iterations = inits.number_in(request.config.init_lora_weights)
    U, S, Vh = randomized_svd(weight, request.r, num_iterations, request.generator)
    factors = balanced_factors(U, S, Vh, request.scaling)
    return Start(factors.lora_A, factors.lora_B, Factors(factors.lora_A, factors.lora_B), True)


def randomized_svd(
    weight: torch.Tensor, r: int, num_iterations: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The r largest singular triplets U (O, r), S (r,), Vh (r, I) of `weight` (O, I), about."""
    out_features, in_features = weight.shape
    q = min(r + OVERSAMPLING, out_features, in_features)
    probe = torch.randn(in_features, q, generator=generator).to(weight)
    Q_OQ = torch.linalg.qr(weight @ probe).Q
    for _ in range(num_iterations):
        # Orthonormalized at every half step: powers of W would drown the small directions.
        Q_OQ = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ Q_OQ).Q).Q
    U, S, Vh = torch.linalg.svd(Q_OQ.T @ weight, full_matrices=False)
    return Q_OQ @ U[:, :r], S[:r], Vh[:r]
