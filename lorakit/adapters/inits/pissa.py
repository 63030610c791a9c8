"""PiSSA (arXiv 2404.02948): the adapter starts as the principal part of the weight.

W = U S V^T; A = sqrt(S_r / scaling) V_r^T, B = U_r sqrt(S_r / scaling), so that scaling * B A is
the best rank-r approximation of W. The base keeps the rest, W - scaling * B A; a quantized base
quantizes that rest, which has a smaller range than W.

The same operations in the same order as PEFT 0.21's: its adapters are loaded by doing this again.
"""

from __future__ import annotations

import torch

from lorakit.adapters.contract import Factors, InitRequest, Start, nothing_to_prepare
from lorakit.adapters.low_rank import balanced_factors, refuse_rank_above, wide

NAMES = ("pissa",)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = False

prepare = nothing_to_prepare


def initialize(request: InitRequest) -> Start:
    """Factors of the principal part, taken out of the base."""
    refuse_rank_above(request)
    U, S, Vh = torch.linalg.svd(wide(request.original()), full_matrices=False)
    r = request.r
    factors = balanced_factors(U[:, :r], S[:r], Vh[:r], request.scaling)
    return Start(factors.lora_A, factors.lora_B, Factors(factors.lora_A, factors.lora_B), True)
