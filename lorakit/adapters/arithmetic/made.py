"""One layer of a result: its factors as they will be written, held against the exact change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lorakit.adapters.arithmetic.low_rank import (
    LowRank,
    distance,
    norm,
    padded,
    rank_for,
    singular_values,
    truncated,
)
from lorakit.adapters.arithmetic.saved import BIAS, DOWN, UP, Layout
from lorakit.adapters.peft_config import MAX_ALPHA
from lorakit.errors import AdapterError, InputError


@dataclass(frozen=True)
class Limit:
    """How far the rank is cut: to `rank`, or as far as `max_error` (relative, Frobenius) allows.

    Neither: not at all.
    """

    rank: int | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.max_error is not None:
            raise InputError(
                f"rank {self.rank} and max_error {self.max_error:g} were both given; possible is "
                "one: the rank decides the error, or the error the rank. Leave one out."
            )
        if self.rank is not None and self.rank < 1:
            raise InputError(f"rank {self.rank} is not possible; the least is 1. Raise it.")
        if self.max_error is not None and not 0 <= self.max_error < 1:
            raise InputError(
                f"max_error {self.max_error:g} is not possible; it is relative: 0 up to, but not "
                "including, 1. Change it."
            )

    @property
    def cuts(self) -> bool:
        return self.rank is not None or self.max_error is not None

    def rank_of(self, values: torch.Tensor) -> int:
        """The rank to keep of a layer with these singular values (E, K), descending."""
        if self.max_error is not None:
            return rank_for(values, self.max_error)
        return min(self.rank or values.shape[1], values.shape[1])


@dataclass(frozen=True)
class MadeLayer:
    """A layer of the result.

    Attributes:
        layout: how it is stored.
        change: its factors as they will be written, already rounded to `dtype`.
        dtype: of the stored factors.
        rank_before: of the exact change as it was put together.
        norm: of the exact change (Frobenius).
        error: Frobenius norm of the difference between exact and written.
    """

    layout: Layout
    change: LowRank
    dtype: torch.dtype
    rank_before: int
    norm: float
    error: float

    @property
    def relative_error(self) -> float:
        return self.error / self.norm if self.norm > 0 else self.error

    def padded(self, rank: int) -> MadeLayer:
        """With zeros up to a rank: all experts of an adapter share one."""
        return replace(self, change=padded(self.change, rank))

    def tensors(self, *, with_bias: bool) -> dict[str, torch.Tensor]:
        """{suffix in the file: tensor}."""
        _, out_features, in_features = self.change.shape
        up = self.change.up.permute(1, 2, 0).reshape(out_features, -1)
        down = self.change.down.reshape(-1, in_features)
        named = {DOWN[self.layout]: down, UP[self.layout]: up}
        if with_bias and self.layout == "linear":
            bias = self.change.bias
            named[BIAS] = up.new_zeros(out_features) if bias is None else bias
        return {suffix: tensor.to(self.dtype).contiguous() for suffix, tensor in named.items()}


def make_layer(
    name: str, exact: LowRank, layout: Layout, dtype: torch.dtype, limit: Limit
) -> MadeLayer:
    """The layer that will be written for an exact change, its rank cut as `limit` says."""
    chosen = truncated(exact, limit.rank_of(singular_values(exact))) if limit.cuts else exact
    # An alpha must be one that readers take; PEFT's format has one for all experts.
    if layout == "experts" or not 0 < chosen.scaling * chosen.rank < MAX_ALPHA:
        chosen = chosen.folded()
    return finish_layer(
        name,
        chosen,
        layout,
        dtype,
        rank_before=exact.rank,
        exact_norm=norm(exact),
        error_of=lambda written: distance(exact, written),
    )


def finish_layer(
    name: str,
    chosen: LowRank,
    layout: Layout,
    dtype: torch.dtype,
    *,
    rank_before: int,
    exact_norm: float,
    error_of: Callable[[LowRank], float],
) -> MadeLayer:
    """Round `chosen` to `dtype` and measure what was rounded.

    Raises:
        AdapterError: the dtype cannot hold the values.
    """
    written = chosen.cast(dtype)
    if not (torch.isfinite(written.up).all() and torch.isfinite(written.down).all()):
        largest = max(float(chosen.up.abs().max()), float(chosen.down.abs().max()))
        raise AdapterError(
            f"{name}: the factors go up to {largest:.3g}, which {dtype} cannot hold; possible are "
            "float32 and bfloat16. Choose another dtype."
        )
    return MadeLayer(layout, written, dtype, rank_before, exact_norm, error_of(written))
