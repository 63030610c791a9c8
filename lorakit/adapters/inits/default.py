"""PEFT's default: A as `nn.Linear` starts (Kaiming uniform, a = sqrt(5)), B zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from lorakit.adapters.contract import InitRequest

NAMES = (True,)
STARTS_AT_BASE = True


def initialize(request: InitRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """Kaiming-uniform A (R, I) and zero B (O, R)."""
    lora_A = torch.empty(request.r, request.in_features)
    nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=request.generator)
    return lora_A, torch.zeros(request.out_features, request.r)
