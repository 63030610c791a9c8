"""Factors of an init that are part of the model as it started."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lorakit.adapters.contract import Factors, Start
from lorakit.adapters.low_rank import PARTS, product, start_from, start_tensors, wide


class KeptStart(nn.Module):
    """The start of one layer; it never trains.

    Its buffers are those of `start_tensors`, None for what there is not; float32, whatever the
    model is cast to.

    Args:
        start: of the layer, part of its base.
        scaling: factor of the products.
        original_sha256: fingerprint of the frozen weight before the subtraction; None where nothing
            was subtracted.
    """

    def __init__(self, start: Start, scaling: float, original_sha256: str | None) -> None:
        super().__init__()
        tensors = start_tensors(start)
        for part in PARTS:
            self.register_buffer(part, tensors.get(part), persistent=False)
        self.scaling = scaling
        self.original_sha256 = original_sha256

    def tensors(self) -> dict[str, torch.Tensor]:
        """As `start_tensors`."""
        return dict(self.named_buffers())

    @property
    def start(self) -> Start:
        """The same as an init gives it."""
        return start_from(self.tensors())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`scaling * B A x`: (..., I) -> (..., O) in the dtype of `x`."""
        start = self.start
        return ((x @ start.lora_A.to(x.dtype).T) * self.scaling) @ start.lora_B.to(x.dtype).T

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight + scaling * B @ A` (O, I), rounded once to the dtype of `weight`."""
        factors = Factors(self.start.lora_A, self.start.lora_B)
        return (wide(weight) + product(weight, factors, self.scaling)).to(weight.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> KeptStart:
        # model.to(device) moves them; model.half() must not round what was subtracted.
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(fn(tensor).device)

        super()._apply(move, recurse)
        return self
