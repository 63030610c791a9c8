"""Moments in the dtype of the master copy: float32 as a rule, and exact."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lorakit.optimizers.codecs import Field


class WholeFloats:
    """Eight bytes for each parameter, with a float32 master."""

    span = 1

    def encodes(self, shape: torch.Size) -> bool:
        return True

    def fields(self, dtype: torch.dtype) -> dict[str, Field]:
        return {"exp_avg": Field(dtype), "exp_avg_sq": Field(dtype)}

    def decode(
        self, state: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return state["exp_avg"], state["exp_avg_sq"]

    def encode(self, mean: torch.Tensor, square: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"exp_avg": mean, "exp_avg_sq": square}


WHOLE_FLOATS = WholeFloats()
