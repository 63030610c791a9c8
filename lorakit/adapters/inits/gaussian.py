"""Normal A with standard deviation 1 / r, B zero (as PEFT and diffusers name it)."""

from __future__ import annotations

import torch

from lorakit.adapters.contract import InitRequest, Start, nothing_to_prepare

NAMES = ("gaussian",)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = False

prepare = nothing_to_prepare


def initialize(request: InitRequest) -> Start:
    """Normal A (R, I) and zero B (O, R)."""
    lora_A = torch.empty(request.r, request.in_features)
    lora_A.normal_(std=1 / request.r, generator=request.generator)
    return Start(lora_A, torch.zeros(request.out_features, request.r))
