"""What became of the weights in a merge that is not faithful, measured on what was written.

W the weight as training began, M as it ended (merged, not rounded), D = M - W what training
changed; out(X) what a file holds once X is written to it, rounded or packed; F the faithful merge.

    difference   ||out(M) - F|| / ||F||
    noise        ||out(M) - M|| / ||M||
    retained     <out(M) - out(W), D> / ||D||^2

`retained` is 1 where rounding is independent of the change, and near 0 where W lies on the values
that a file can hold: a small change crosses no midpoint between two of them. Against W instead of
out(W) it would mix in what packing does to any weight: NF4 makes weights a little smaller, so a
change along W itself (the magnitudes of a DoRA) of half a percent, kept to 0.995, would show 0.075.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.base.as_stored import StoredWeights, stored_weights
from lorakit.base.frozen_linear import is_conv1d
from lorakit.base.fusion import Fusion, source_of
from lorakit.base.meta_model import plain_model
from lorakit.base.origin import Origin
from lorakit.errors import VerificationError
from lorakit.ship.piece import Change, Piece

# Less than this is no rounding of a change, but its loss. The mean over all weights is known to a
# standard error, so many of which are allowed for.
LEAST_RETAINED, STANDARD_ERRORS = 0.9, 4.0
CHUNK_VALUES = 1 << 20  # of each tensor, whose sums are taken at a time


@dataclass(frozen=True)
class LayerChange:
    """Sums over the elements of one weight, or of several.

    Attributes:
        difference, faithful: ||out(M) - F||^2 and ||F||^2.
        noise, merged: ||out(M) - M||^2 and ||M||^2.
        change, started: ||D||^2 and ||W||^2.
        kept: <out(M) - out(W), D>.
        scatter: sum of ((out(M) - out(W)) D - D^2)^2: what chance may do to `kept`.
    """

    difference: float
    faithful: float
    noise: float
    merged: float
    change: float
    started: float
    kept: float
    scatter: float

    @property
    def relative_difference(self) -> float:
        return _ratio(self.difference, self.faithful)

    @property
    def relative_noise(self) -> float:
        return _ratio(self.noise, self.merged)

    @property
    def relative_change(self) -> float:
        """||D|| / ||W||"""
        return _ratio(self.change, self.started)

    @property
    def retained(self) -> float | None:
        """None where training changed nothing."""
        return self.kept / self.change if self.change > 0 else None

    @property
    def standard_error(self) -> float | None:
        """Of `retained`, where each element is rounded independently."""
        return math.sqrt(self.scatter) / self.change if self.change > 0 else None


@dataclass(frozen=True)
class WeightChange:
    """What a merge made of the weights.

    Attributes:
        layers: {parameter: its sums}, of every weight that the adapter adds to or the base of the
            training held otherwise than the file does.
    """

    layers: Mapping[str, LayerChange]

    def __str__(self) -> str:
        most = self.most_different
        if most is None:
            return "no weight differs from base + adapter"
        return (
            f"weights differ by {self.total.relative_difference:.2%} from base + adapter, most in "
            f"{most} ({self.layers[most].relative_difference:.2%})"
        )

    @property
    def total(self) -> LayerChange:
        """The sums over all weights."""
        names = [field.name for field in fields(LayerChange)]
        layers = self.layers.values()
        return LayerChange(**{name: sum(vars(one)[name] for one in layers) for name in names})

    @property
    def most_different(self) -> str | None:
        """The parameter with the largest relative difference; None where there is none at all."""
        differences = {name: layer.relative_difference for name, layer in self.layers.items()}
        return max(differences, key=differences.__getitem__, default=None)

    @property
    def worst_retained(self) -> tuple[str, float] | None:
        """The parameter whose retained part is farthest from 1, and that part."""
        parts = {name: layer.retained for name, layer in self.layers.items()}
        known = {name: part for name, part in parts.items() if part is not None}
        if not known:
            return None
        name = max(known, key=lambda name: abs(known[name] - 1))
        return name, known[name]


@torch.no_grad()
def measure_change(
    folder: Path, pieces: Sequence[Piece], faithful: Sequence[Piece], *, is_packed: bool
) -> WeightChange:
    """Read a written folder again, one weight at a time, and compare.

    Args:
        folder: as written.
        pieces: what it was written from.
        faithful: the pieces of the faithful merge.
        is_packed: the folder holds packed weights.
    """
    plain = plain_model(folder)
    stored = stored_weights(folder, plain, is_packed=is_packed)
    by_name = {name: piece for piece in pieces for name in piece.names}
    # One call each: nothing of a weight is held while the next one is read.
    return WeightChange(
        {
            exact.parameter: _measured(exact, exact.parameter, plain, stored, by_name)
            for exact in faithful
            if exact.parameter is not None and exact.source is not None
        }
    )


def _measured(
    exact: Piece,
    parameter: str,
    plain: PreTrainedModel,
    stored: StoredWeights,
    by_name: Mapping[str, Piece],
) -> LayerChange:
    source = source_of(plain, parameter, stored.origins[parameter])
    piece = by_name[source.names[0]]
    before, target = exact.before_and_after()
    if piece.trained is exact:  # which is packed only once then
        before, after = piece.moved(before, target)
    else:
        before, after = piece.before_and_after()
    written, as_written = _written(plain, stored, parameter, source)
    return layer_change(written, target, before, after, as_written)


def layer_change(
    written: torch.Tensor,
    faithful: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    as_written: Change,
) -> LayerChange:
    """The sums of one weight; all tensors have its shape, and float32 or wider.

    Args:
        written: out(M).
        faithful: F.
        before, after: W and M.
        as_written: out.
    """
    # A block of rows at a time: sums need no more whole tensors than there are already.
    again = as_written(before)
    rows = max(1, CHUNK_VALUES // max(1, before[0].numel()))
    parts = (tensor.split(rows) for tensor in (written, again, faithful, before, after))
    sums = [0.0] * len(fields(LayerChange))
    for part in zip(*parts, strict=True):
        sums = [total + found for total, found in zip(sums, _sums(*part), strict=True)]
    return LayerChange(*sums)


def _sums(
    written: torch.Tensor,
    again: torch.Tensor,
    faithful: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
) -> tuple[float, ...]:
    """The fields of `LayerChange`, in their order, of some rows; `again` is out(W)."""
    change = after - before
    kept = (written - again).mul_(change)
    return (
        _square(written - faithful),
        _square(faithful),
        _square(written - after),
        _square(after),
        _square(change),
        _square(before),
        float(kept.sum(dtype=torch.float64)),
        _square(kept.sub_(change.square_())),
    )


def refuse_lost_change(change: WeightChange) -> None:
    """Raise VerificationError when a merge does not hold what training changed."""
    total = change.total
    retained, error = total.retained, total.standard_error
    if retained is None or error is None:
        return
    # `not >=`: a NaN is a failure too.
    if not retained + STANDARD_ERRORS * error >= LEAST_RETAINED:
        raise VerificationError(
            f"the written weights hold {retained:.1%} of what training changed (standard error "
            f"{error:.1%}); at least {LEAST_RETAINED:.0%} is possible where the base's weights "
            "were never rounded to so few values. Those of this base lie on values that the file "
            "can hold, and a small change is rounded away. Nothing was written. Merge without "
            "--quantize, or into the model that the base was made from."
        )


def _written(
    plain: PreTrainedModel, stored: StoredWeights, parameter: str, source: Origin | Fusion
) -> tuple[torch.Tensor, Change]:
    """A weight as the file holds it, in float32 or wider in the plain model's layout, and what the
    file would hold of another one."""
    if isinstance(source, Fusion) or source.packed is None:
        value = source.dense()
        wide = torch.promote_types(value.dtype, torch.float32)
        return value.to(wide), lambda weight: weight.to(value.dtype).to(wide)
    packed = source.packed.read(source.packed.dtype)
    transposed = is_conv1d(plain.get_submodule(parameter.rpartition(".")[0]))

    def turned(weight: torch.Tensor) -> torch.Tensor:
        return weight.t().contiguous() if transposed else weight

    def as_written(weight: torch.Tensor) -> torch.Tensor:
        again = packed.pack_like(turned(weight).to(packed.dtype))
        return turned(again.dequantize(torch.float32))

    return turned(packed.dequantize(torch.float32)), as_written


def _square(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole > 0 else math.sqrt(part)
