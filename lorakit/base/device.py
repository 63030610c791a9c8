"""The device and dtype of computation, decided in one place."""

from __future__ import annotations

import torch

from lorakit.errors import ModelError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def compute_device(device: str | torch.device | None) -> torch.device:
    """The device that computes; None or "auto": the first GPU if there is one, otherwise the CPU.

    Raises:
        ModelError: not a device of this machine.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"device {device!r} is not known; possible: auto, cpu, cuda, cuda:0. Fix base.device."
        ) from error
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cpu" and chosen.index):
        raise ModelError(
            f"device {str(device)!r} cannot compute here; possible: auto, cpu, cuda, cuda:0. Fix "
            "base.device."
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device {device!r} was asked for, but torch finds no usable GPU; possible: cpu. "
            "Change base.device, or install a CUDA build of torch."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {str(device)!r} was asked for, but there are {torch.cuda.device_count()} "
            f"GPUs; possible: cuda:0 to cuda:{torch.cuda.device_count() - 1}. Fix base.device."
        )
    return chosen


def compute_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of computation; None: bfloat16 on GPUs that have it, float32 otherwise.

    Raises:
        ModelError: not a floating dtype that computes.
    """
    if dtype is None:
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if dtype not in DTYPES:
        raise ModelError(
            f"dtype {dtype} cannot compute; possible: {', '.join(str(d) for d in DTYPES)}. Fix "
            "base.dtype."
        )
    return dtype
