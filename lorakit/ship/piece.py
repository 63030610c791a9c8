"""One tensor of a merged checkpoint: where it comes from, and how it is made when it is written.

Tensors that transformers makes one parameter of (a layer's experts) are one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorakit.adapters.contract import Factors
from lorakit.adapters.low_rank import subtract, wide
from lorakit.base.dtypes import cast
from lorakit.base.fusion import Fusion
from lorakit.base.origin import Origin
from lorakit.base.storages import Storage
from lorakit.base.vocabulary import with_more_rows

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Packing:
    """How the base stored its weights in training: a storage and the names of the parameters.

    `dtype` is the one it computed in: weights were packed from it, and unpacked to it. `is_stored`
    says that the checkpoint itself holds them packed.
    """

    storage: Storage
    parameters: frozenset[str]
    block_size: int
    double_quantization: bool
    dtype: torch.dtype
    is_stored: bool = False

    def dequantized(
        self, weight: torch.Tensor, taken: Factors | None = None, scaling: float = 1.0
    ) -> torch.Tensor:
        """What the base computed with in place of `weight` (as its storage holds it), once an init
        had taken `scaling * B @ A` of the factors `taken` out of it.
        """
        weight = weight.to(self.dtype)
        packed = self.storage.pack(
            weight if taken is None else subtract(weight, taken, scaling),
            block_size=self.block_size,
            double_quantization=self.double_quantization,
        )
        return packed.dequantize()


@dataclass(frozen=True)
class Made:
    """Tensors to write by name, and their relative error against base and adapter in float64."""

    tensors: dict[str, torch.Tensor]
    error: float


@dataclass(frozen=True)
class Piece:
    """One tensor to write, or several that are parts of one parameter.

    Attributes:
        name: in the written checkpoint; of several that of the first.
        parameter: of the plain model; None for a tensor that is copied.
        layer: the module it belongs to, for messages.
        source: the checkpoint's tensor, or what several make; None when the adapter brings the
            tensor.
        shape, dtype: as written; `dtype` None for a tensor that is copied as it is.
        num_bytes: as written.
        base: the weight of the base in training, from the source; None: the source itself.
        change: what the adapter makes of the base's weight, computed in its dtype or float32, the
            wider one; None: nothing.
        started: the weight before training, of the base's weight; None: the base's weight itself.
        trained: the piece of the faithful merge, whose change goes into the source instead; `base`,
            `change` and `started` are its own then.
        num_rows: of a vocabulary table that grew; None: as many as the source has.
        error_of: the relative error of (the base's weight, the merged one); None: there is none.
    """

    name: str
    parameter: str | None
    layer: str
    source: Origin | Fusion | None
    shape: torch.Size
    dtype: torch.dtype | None
    num_bytes: int
    base: Change | None = None
    change: Change | None = None
    started: Change | None = None
    num_rows: int | None = None
    error_of: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    trained: Piece | None = None

    @property
    def is_changed(self) -> bool:
        how = (self.base, self.change, self.trained, self.num_rows)
        return any(part is not None for part in how)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors it writes."""
        return self.source.names if isinstance(self.source, Fusion) else (self.name,)

    @torch.no_grad()
    def make(self) -> Made:
        """Read the source and compute what is to be written."""
        if self.dtype is None:
            return Made({self.name: self._read()}, 0.0)
        # Rounded once, to the dtype that is written.
        if self.trained is not None:
            base, before, after = self.trained.steps()
            error = self.trained._error(base, after)
            del base  # a tensor less while the others are made
            _, merged = self.moved(before, after)
            del before, after
            return Made(self._named(cast(merged, self.dtype, self.name).contiguous()), error)
        base, _, after = self.steps()
        merged = cast(after, self.dtype, self.name).contiguous()
        return Made(self._named(merged), self._error(base, merged))

    @torch.no_grad()
    def before_and_after(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight as training began and as it ended, in float32 or wider, not rounded."""
        _, before, after = (self if self.trained is None else self.trained).steps()
        return self.moved(before, after)

    def moved(self, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same change of the weight that this piece changes; of `trained`'s steps."""
        if self.trained is None:
            return before, after
        original = wide(self._grown(self._read()))
        return original, (after - before).add_(original)

    def steps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The base's weight, the weight before training, and after; the last two unrounded."""
        base = self._grown(self._read() if self.base is None else self.base(self._read()))
        unrounded = wide(base)
        before = unrounded if self.started is None else self.started(unrounded)
        return base, before, unrounded if self.change is None else self.change(unrounded)

    def _named(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
        if isinstance(self.source, Fusion):
            return self.source.split(value)
        return {self.name: value}

    def _grown(self, table: torch.Tensor) -> torch.Tensor:
        return table if self.num_rows is None else with_more_rows(table, self.num_rows)

    def _error(self, base: torch.Tensor, merged: torch.Tensor) -> float:
        return 0.0 if self.error_of is None else self.error_of(base, merged)

    def _read(self) -> torch.Tensor:
        return torch.empty(0) if self.source is None else self.source.dense()
