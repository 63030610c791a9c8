"""Both factors random (`init_lora_weights: false`): for tests, as it does not start at the base."""

from __future__ import annotations

import math

import torch
from torch import nn

from lorakit.adapters.contract import InitRequest, Start, nothing_to_prepare

NAMES = (False,)
STARTS_AT_BASE = False
NEEDS_CALIBRATION = False

prepare = nothing_to_prepare


def initialize(request: InitRequest) -> Start:
    """A (R, I) and B (O, R) as two `nn.Linear` layers start."""
    factors = (
        torch.empty(request.r, request.in_features),
        torch.empty(request.out_features, request.r),
    )
    for factor in factors:
        nn.init.kaiming_uniform_(factor, a=math.sqrt(5), generator=request.generator)
    return Start(*factors)
