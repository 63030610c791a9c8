"""Moments in 8 bits, block by block (Dettmers et al., arXiv 2110.02861).

The first moment goes by the signed dynamic map, the second by the unsigned one, in blocks of 256
with a float32 absmax each: 2.03 bytes for each parameter instead of 8. Every step decodes, updates
in float32 and encodes again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lorakit import kernels
from lorakit.kernels.reference.dynamic8 import BLOCK_SIZE
from lorakit.optimizers.codecs import Field


class Block8:
    """bitsandbytes' layout: no block reaches over the end of a parameter.

    A block that did would take its scale from the larger of two layers' gradients (those of A and
    B lie orders of magnitude apart), so parameters are padded to whole blocks.

    Vectors (biases, norms, DoRA's magnitudes) stay whole: there is little to save, and each of
    their elements scales a whole row. bitsandbytes draws the line at 4096 elements instead, to
    spare itself a kernel launch for each small tensor. In flat buffers a small matrix costs no
    launch, and A and B of a small layer or rank are all there is to save on.
    """

    span = BLOCK_SIZE

    def encodes(self, shape: torch.Size) -> bool:
        return len(shape) > 1 and shape.numel() >= BLOCK_SIZE

    def fields(self, dtype: torch.dtype) -> dict[str, Field]:
        return {
            "exp_avg": Field(torch.uint8),
            "exp_avg_absmax": Field(torch.float32, BLOCK_SIZE),
            "exp_avg_sq": Field(torch.uint8),
            "exp_avg_sq_absmax": Field(torch.float32, BLOCK_SIZE),
        }

    def decode(
        self, state: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, square = (
            kernels.dequantize_dynamic(state[name], state[f"{name}_absmax"], signed=signed)
            for name, signed in (("exp_avg", True), ("exp_avg_sq", False))
        )
        return mean.to(dtype), square.to(dtype)

    def encode(self, mean: torch.Tensor, square: torch.Tensor) -> dict[str, torch.Tensor]:
        fields: dict[str, torch.Tensor] = {}
        for name, moment, signed in (("exp_avg", mean, True), ("exp_avg_sq", square, False)):
            codes, absmax = kernels.quantize_dynamic(moment.float(), signed=signed)
            fields |= {name: codes, f"{name}_absmax": absmax}
        return fields
