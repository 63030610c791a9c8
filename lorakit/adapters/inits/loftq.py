"""LoftQ (arXiv 2310.08659): the adapter starts as what quantization took from the weight.

    R_0 = W;  Q_k = pack(R_{k-1}),  scaling * B_k A_k = the best rank-r approximation of W - Q_k,
    R_k = W - scaling * B_k A_k;  k = 1 ... loftq_iter

The Q of the iteration that leaves the smallest error is the base's weight, so `pack` is the base's
own storage, double quantization included. (The paper takes the last iteration. The first one always
helps; a later one is worse where W fits its storage better than W - scaling * B A does.)
PEFT 0.21 leaves `scaling` out of the factors, which is right only where lora_alpha equals r, fits
another quantizer than the one in use, and keeps Q in 16 bit.
"""

from __future__ import annotations

import torch

from lorakit.adapters.contract import Factors, InitRequest, Start, Survey
from lorakit.adapters.inits import default
from lorakit.adapters.low_rank import balanced_factors, refuse_rank_above, subtract, wide
from lorakit.base.info import base_info
from lorakit.base.repack import is_packed
from lorakit.errors import AdapterError
from lorakit.recipe import LoftqConfig
from lorakit.recipe.quantizations import BITS

NAMES = ("loftq",)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = False


def prepare(survey: Survey) -> Survey:
    """Refuse a base that has nothing to correct, and bits that are not its own."""
    if not any(is_packed(module) for module in survey.targets.adapted.values()):
        raise AdapterError(
            "init_lora_weights 'loftq' corrects what quantization took, and none of the adapted "
            "layers is quantized; possible: a base loaded as nf4. Set base.quantization, or "
            "another adapter.init_lora_weights."
        )
    wanted = (survey.config.loftq_config or LoftqConfig()).loftq_bits
    if wanted is not None and survey.model.device.type != "meta":
        quantization = base_info(survey.model).quantization
        if wanted != BITS.get(quantization):
            raise AdapterError(
                f"loftq_config.loftq_bits {wanted} is not what the base is stored in: "
                f"{quantization} has {BITS.get(quantization)} bits. Remove it, or fix "
                "base.quantization."
            )
    return survey


def initialize(request: InitRequest) -> Start:
    """Factors of the quantization error, of the iteration that leaves the least of it.

    A layer that quantization took nothing from, dense or exactly representable, starts as by
    default: factors that are both zero would never train.
    """
    if not request.is_packed:
        return default.initialize(request)
    refuse_rank_above(request)
    num_iterations = (request.config.loftq_config or LoftqConfig()).loftq_iter
    original = request.original()
    weight, r = wide(original), request.r
    subtracted: Factors | None = None
    iterations: list[tuple[float, Start]] = []
    for _ in range(num_iterations):
        rest = original if subtracted is None else subtract(original, subtracted, request.scaling)
        error = weight - request.pack(rest).dequantize(weight.dtype)
        U, S, Vh = torch.linalg.svd(error, full_matrices=False)
        factors = balanced_factors(U[:, :r], S[:r], Vh[:r], request.scaling)
        left = 0.0 if S.is_meta else S[r:].norm().item()
        iterations.append((left, Start(factors.lora_A, factors.lora_B, subtracted, True)))
        if not S.is_meta and S[0] == 0:
            return default.initialize(request)
        subtracted = factors
    if weight.is_meta:
        return iterations[-1][1]
    return min(iterations, key=lambda iteration: iteration[0])[1]
