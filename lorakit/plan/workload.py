"""The passes of a run, by the lengths of its real rows, laid out as the loop will lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import epoch_order, step_of_epoch
from lorakit.engine.passes import Pass, lay_out
from lorakit.plan.steps import RunLength

# Steps that are laid out; of a longer run as many, evenly spread, stand for all.
MAX_STEPS = 256


@dataclass(frozen=True)
class Workload:
    """The passes of a run.

    Attributes:
        steps: passes of each optimizer step that was laid out.
        num_steps: optimizer steps of the run.
        scale: how many steps each of them stands for, so that the run's tokens come out.
        micro_batch_tokens: budget they were laid out with.
    """

    steps: Sequence[Sequence[Pass]]
    num_steps: int
    scale: float
    micro_batch_tokens: int

    @property
    def passes(self) -> list[Pass]:
        """All that were laid out."""
        return [one for step in self.steps for one in step]


def run_workload(
    examples: ExampleSet,
    repeats: np.ndarray | None,
    length: RunLength,
    *,
    batch_size: int,
    seed: int,
    micro_batch_tokens: int,
    packed: bool,
) -> Workload:
    """Lay out the steps of a run, or a sample of them.

    Args:
        examples, repeats, seed: of the training set.
        length: of the run.
        micro_batch_tokens: budget of a micro-batch.
        packed: whether rows share one; otherwise they are padded.
    """
    per_epoch = length.steps_per_epoch
    chosen = np.unique(np.linspace(0, length.steps - 1, MAX_STEPS).astype(np.int64))
    steps, tokens, epoch, order = [], 0, -1, np.empty(0)
    for step in chosen.tolist():
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = epoch_order(len(examples), repeats, seed, epoch)
        rows = step_of_epoch(order, step % per_epoch, batch_size)
        tokens += int(examples.lengths[rows].sum())
        steps.append(lay_out(examples, rows, micro_batch_tokens=micro_batch_tokens, packed=packed))
    return Workload(steps, length.steps, length.tokens / max(1, tokens), micro_batch_tokens)
