"""PEFT's default: A as `nn.Linear` starts (Kaiming uniform, a = sqrt(5)), B zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from lorakit.adapters.contract import InitRequest, Start, nothing_to_prepare

NAMES = (True,)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = False

prepare = nothing_to_prepare


def initialize(request: InitRequest) -> Start:
    """Kaiming-uniform A (R, I) and zero B (O, R)."""
    lora_A = torch.empty(request.r, request.in_features)
    nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=request.generator)
    return Start(lora_A, torch.zeros(request.out_features, request.r))
