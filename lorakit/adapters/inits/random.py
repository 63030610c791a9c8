"""Both factors random (`init_lora_weights: false`): for tests, as it does not start at the base."""

from __future__ import annotations

import math

import torch
from torch import nn

from lorakit.adapters.contract import InitRequest

NAMES = (False,)
STARTS_AT_BASE = False


def initialize(request: InitRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """A (R, I) and B (O, R) as two `nn.Linear` layers start."""
    factors = (
        torch.empty(request.r, request.in_features),
        torch.empty(request.out_features, request.r),
    )
    for factor in factors:
        nn.init.kaiming_uniform_(factor, a=math.sqrt(5), generator=request.generator)
    return factors
