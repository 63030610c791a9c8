"""What the parts of a step take on this machine, as plain numbers; `calibrate.py` measures them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

    def at(self, size: float) -> float:
        """Seconds of a piece of work of this size."""
        if size <= self.sizes[0]:
            return (
                self.seconds[0] * size / self.sizes[0]
                if len(self.sizes) == 1
                else self._below(size)
            )
        if size >= self.sizes[-1]:
            return self.seconds[-1] * size / self.sizes[-1]
        return float(np.interp(size, self.sizes, self.seconds))

    def _below(self, size: float) -> float:
        """On the line of the first two points; what a pass takes at least shows there."""
        (x0, x1), (y0, y1) = self.sizes[:2], self.seconds[:2]
        start = max(0.0, y0 - x0 * (y1 - y0) / (x1 - x0))
        return start + (y0 - start) * size / x0


@dataclass(frozen=True)
class Rates:
    """What this machine takes, measured.

    Attributes:
        layer: {operations of one decoder layer in a pass of the training: seconds}.
        head: {trained positions of a micro-batch: seconds of the output head and the loss}.
        layer_forward, head_forward: the same in passes that train nothing.
        step: of an optimizer step, whatever its tokens.
        checkpoint: of writing one.
        load: of loading the base.
        decode: of one forward pass that gives `decode_batch` answers a token each.
        decode_batch: answers that are written at a time.
        policy: recompute of the run.
        how: what was measured, in words.
    """

    layer: Curve
    head: Curve
    layer_forward: Curve
    head_forward: Curve
    step: float
    checkpoint: float
    load: float
    decode: float
    decode_batch: int
    policy: RecomputePolicy
    how: str
