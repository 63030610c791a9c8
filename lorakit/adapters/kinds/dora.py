"""DoRA (arXiv 2402.09353): a trained magnitude per output row, times a direction that LoRA trains.

    y = m / n * (W x + scaling * B A x) + b,    n = ||W + scaling * B A|| per row

No gradient flows through the norm n (section 4.3 of the paper). The norm is factored, so neither
`B A` nor an identity of size I is ever made:

    n^2 = ||W||^2 + 2 scaling * rowsum((W A^T) * B) + scaling^2 * rowsum((B A A^T) * B)

In a loop that allows it (`NormCache`) it is made once per optimizer step, from the dense weight
that the step's first forward pass has in hand anyway.

Dropout acts on the low-rank branch only. PEFT 0.21 recomputes the base product on dropped inputs
instead; the two are equal at dropout 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from lorakit import kernels
from lorakit.adapters.contract import Kind, NormCache
from lorakit.base.frozen_linear import FrozenLinear

# Rows of W that are converted at a time: only so many are held in float32.
NORM_CHUNK_ROWS = 1024
SMALLEST_MAGNITUDE = 1e-30


class Dora(Kind):
    """Scales the rows of the low-rank update's sum with the frozen weight.

    `weight_norm_squared` (O,) is ||W||^2 of each row, computed once.
    """

    weight_norm_squared: torch.Tensor

    NAME = "dora"
    PEFT_FIELDS: ClassVar[dict[str, object]] = {"use_dora": True}
    KEEPS_OUTPUT = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int,
        scaling: float,
        *,
        device: torch.device,
        norm_cache: NormCache,
    ) -> None:
        super().__init__(
            in_features, out_features, r, scaling, device=device, norm_cache=norm_cache
        )
        self.lora_magnitude_vector = nn.Parameter(
            torch.ones(out_features, dtype=torch.float32, device=device)
        )
        self.register_buffer(
            "weight_norm_squared",
            torch.ones(out_features, dtype=torch.float32, device=device),
            persistent=False,
        )
        self._cached: tuple[int, kernels.RowScale] | None = None

    @torch.no_grad()
    def begin(self, base: FrozenLinear) -> None:
        """Take the norms of the frozen rows, and start from magnitudes that change nothing."""
        if self.lora_A.is_meta:
            return
        weight = base.weight
        self.weight_norm_squared.copy_(_row_norms_squared(weight))
        self.lora_magnitude_vector.copy_(self.row_norms(weight))

    def projection(self, base: FrozenLinear, dropout: kernels.Dropped | None) -> kernels.Projection:
        return kernels.Projection(
            base.stored,
            base.bias,
            self.lora_A,
            self.lora_B,
            self.scaling,
            row_scale=self.row_scale,
            magnitude=self.lora_magnitude_vector,
            dropout=dropout,
        )

    def combine(
        self, product: torch.Tensor, down: torch.Tensor, base: FrozenLinear
    ) -> torch.Tensor:
        y = product + (down * self.scaling) @ self.lora_B.to(product.dtype).T
        scale = self._known_scale() or self.row_scale(base.weight)
        return y * (self.lora_magnitude_vector / scale.norm).to(product.dtype)

    def merged_weight(self, weight: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        direction = weight.to(wide) + (self.lora_B.to(wide) @ self.lora_A.to(wide)) * self.scaling
        norms = _positive(direction.detach().square().sum(dim=1)).sqrt()
        merged = direction * (self.lora_magnitude_vector.to(wide) / norms).unsqueeze(1)
        return merged.to(weight.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Dora:
        # model.to(bfloat16) may cast the model, not the norms: they keep float32 or more.
        exact = self.weight_norm_squared
        super()._apply(fn, recurse)
        moved = self.weight_norm_squared
        if torch.finfo(moved.dtype).bits < torch.finfo(exact.dtype).bits:
            self.weight_norm_squared = exact.to(moved.device)
        return self

    def peft_tensors(self) -> dict[str, nn.Parameter]:
        return {
            "lora_A.weight": self.lora_A,
            "lora_B.weight": self.lora_B,
            "lora_magnitude_vector": self.lora_magnitude_vector,
        }

    @torch.no_grad()
    def row_norms(self, weight: torch.Tensor) -> torch.Tensor:
        """`||W + scaling * B A||` of each row (O,), float32 (float64 for float64 parameters).

        Args:
            weight: the frozen one (O, I), dense, on any device.
        """
        a_RI, b_OR = self.lora_A, self.lora_B
        # Half-precision norms are off by 2e-3 (PEFT's are); an autocast of the caller must not
        # reach here.
        with kernels.without_autocast(a_RI):
            cross_OR = torch.cat([part.to(a_RI) @ a_RI.T for part in _wide_parts(weight, a_RI)])
            square = (
                self.weight_norm_squared
                + 2 * self.scaling * (cross_OR * b_OR).sum(dim=1)
                + self.scaling**2 * ((b_OR @ (a_RI @ a_RI.T)) * b_OR).sum(dim=1)
            )
        return _positive(square).sqrt()

    def row_scale(self, weight: torch.Tensor) -> kernels.RowScale:
        """n and m / n; where they may be reused, `weight` is not looked at a second time.

        Args:
            weight: the frozen one (O, I), dense.
        """
        scale = self._known_scale()
        if scale is None:
            norm = self.row_norms(weight)
            magnitude = self.lora_magnitude_vector.detach()
            # The output of such a row is as good as 0, and the magnitude's gradient, which divides
            # by it, stays right.
            safe = torch.where(magnitude.abs() < SMALLEST_MAGNITUDE, SMALLEST_MAGNITUDE, magnitude)
            scale = kernels.RowScale(norm, safe / norm)
            self._cached = self.norm_cache.version, scale
        return scale

    def _known_scale(self) -> kernels.RowScale | None:
        cache = self.norm_cache
        if self._cached is None or not cache.allowed or self._cached[0] != cache.version:
            return None
        return self._cached[1]


def _row_norms_squared(weight: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    chunks = weight.detach().split(NORM_CHUNK_ROWS)
    return torch.cat([chunk.to(wide).square().sum(dim=1) for chunk in chunks])


def _wide_parts(weight: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`weight` whole; some rows at a time where they have to take the dtype of `like`."""
    return (weight,) if weight.dtype == like.dtype else weight.split(NORM_CHUNK_ROWS)


def _positive(square: torch.Tensor) -> torch.Tensor:
    """Rows of zeros (padding in some checkpoints) stay rows of zeros instead of becoming 0 / 0."""
    return square.clamp_min(torch.finfo(square.dtype).tiny)
