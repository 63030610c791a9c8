"""PiSSA with a randomized SVD (`low_rank.randomized_svd`).

`pissa_niter_N` makes N subspace iterations. Where this departs from PEFT 0.21: the random matrix
comes from the request's generator, so that the same seed gives the same start, and it has
OVERSAMPLING columns more than the rank, as the paper advises; PEFT takes exactly r, unseeded.
"""

from __future__ import annotations

from lorakit.adapters import inits
from lorakit.adapters.contract import Factors, InitRequest, Start, nothing_to_prepare
from lorakit.adapters.low_rank import balanced_factors, randomized_svd, refuse_rank_above, wide

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
    U, S, Vh = randomized_svd(
        weight, request.r, num_iterations, request.generator, oversampling=OVERSAMPLING
    )
    factors = balanced_factors(U, S, Vh, request.scaling)
    return Start(factors.lora_A, factors.lora_B, Factors(factors.lora_A, factors.lora_B), True)
