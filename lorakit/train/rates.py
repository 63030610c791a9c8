"""What the parts of a step take on this machine, as plain numbers; `calibrate.py` measures them."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import accumulate

from lorakit.engine.recompute import RecomputePolicy

# Sequences that the sampler continues at a time, see `generate`.
DECODE_BATCH = 64


@dataclass(frozen=True)
class Curve:
    """Seconds over the size of a piece of work: straight between measured points, on a line
    through the origin beyond them.

    Attributes:
        sizes: ascending, at least one.
        seconds: of each.
    """

    sizes: tuple[float, ...]
    seconds: tuple[float, ...]

    @classmethod
    def through(cls, points: dict[float, float]) -> Curve:
        """{size: seconds}, in any order; a piece that took longer than a larger one was disturbed,
        and takes as long as that one."""
        sizes = tuple(sorted(points))
        least = accumulate((points[size] for size in reversed(sizes)), min)
        return cls(sizes, tuple(reversed(list(least))))

    def at(self, size: float) -> float:
        """Seconds of a piece of work of this size."""
        if size >= self.sizes[-1]:
            return self.seconds[-1] * size / self.sizes[-1]
        if len(self.sizes) == 1:
            return self.seconds[0] * size / self.sizes[0]
        if size <= self.sizes[0]:
            return self._below(size)
        above = bisect.bisect_right(self.sizes, size)
        (x0, x1), (y0, y1) = self.sizes[above - 1 : above + 1], self.seconds[above - 1 : above + 1]
        return y0 + (y1 - y0) * (size - x0) / (x1 - x0)

    def _below(self, size: float) -> float:
        """On the line of the first two points; what a pass takes at least shows there."""
        (x0, x1), (y0, y1) = self.sizes[:2], self.seconds[:2]
        start = max(0.0, y0 - x0 * (y1 - y0) / (x1 - x0))
        return start + (y0 - start) * size / x0


@dataclass(frozen=True)
class LayerRates:
    """Of one layer of a kind.

    Attributes:
        train: {operations of the layer in a pass of the training: seconds}.
        forward: the same in passes that train nothing.
        norms: seconds that the first pass of a step takes more than the others.
        decode: of one token each for `DECODE_BATCH` answers.
    """

    train: Curve
    forward: Curve
    norms: float
    decode: float


@dataclass(frozen=True)
class Rates:
    """What this machine takes, measured.

    Attributes:
        kinds: of each kind of layer.
        kind_of: the kind of each decoder layer, by its place among `kinds`.
        head: {trained positions of a micro-batch: seconds of the output head and the loss}.
        head_forward: the same in passes that train nothing.
        update: of an optimizer step, whatever its tokens, without the norms of the layers.
        checkpoint: of writing one.
        decode_head: of the output head for `DECODE_BATCH` answers.
        policy: recompute of the run.
        how: what was measured, in words.
        disturbed: whether timings of one thing did not agree: other programs were busy.
    """

    kinds: tuple[LayerRates, ...]
    kind_of: tuple[int, ...]
    head: Curve
    head_forward: Curve
    update: float
    checkpoint: float
    decode_head: float
    policy: RecomputePolicy
    how: str
    disturbed: bool = False

    @property
    def step(self) -> float:
        """Of an optimizer step, whatever its tokens."""
        return self.update + sum(self.kinds[kind].norms for kind in self.kind_of)

    @property
    def decode(self) -> float:
        """Of one forward pass that gives `DECODE_BATCH` answers a token each."""
        return self.decode_head + sum(self.kinds[kind].decode for kind in self.kind_of)
