"""The caller's autocast, asked and switched off in one place; tensors without data know none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocasts(x: torch.Tensor) -> bool:
    """Whether autocast is on where `x` is."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: torch.Tensor) -> AbstractContextManager[object]:
    """Inside, it is off where `x` is."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
