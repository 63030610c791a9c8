"""OLoRA (arXiv 2406.01775): the adapter starts as orthonormal directions of the weight.

W = Q R; B = Q_r (the first r columns, orthonormal), A = R_r (the first r rows). The base keeps
W - scaling * B A. The same operations as PEFT 0.21's: its adapters are loaded by doing this again.
"""

from __future__ import annotations

import torch

from lorakit.adapters.contract import Factors, InitRequest, Start, nothing_to_prepare
from lorakit.adapters.low_rank import refuse_rank_above, wide

NAMES = ("olora",)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = False

prepare = nothing_to_prepare


def initialize(request: InitRequest) -> Start:
    """The first r columns of Q and rows of R, taken out of the base."""
    refuse_rank_above(request)
    Q, R = torch.linalg.qr(wide(request.original()))
    lora_A, lora_B = R[: request.r].contiguous(), Q[:, : request.r].contiguous()
    return Start(lora_A, lora_B, Factors(lora_A, lora_B), True)
