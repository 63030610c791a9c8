"""What is said when a number of a run is NaN or infinite."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lorakit.errors import NonFiniteError
from lorakit.train.batches import StepBatch
from lorakit.train.losses import ExampleLosses

SHOWN_EXAMPLES = 8


def step_error(batch: StepBatch, where: str, last_checkpoint: Path | None) -> NonFiniteError:
    """Of a step, whose weights were not changed.

    Args:
        where: it came up first, see `name_first_non_finite`.
    """
    examples = [int(i) for one in batch.micro_batches for i in one.example_ids]
    return NonFiniteError(
        f"step {batch.step + 1} gave a NaN or infinity, first in {where} ({batch.ids_are} "
        f"{examples[:SHOWN_EXAMPLES]}). The weights are those after step {batch.step}; "
        f"{_saved(last_checkpoint)}. Lower learning_rate, compute in float32, or look at those "
        "examples."
    )


def validation_error(
    losses: ExampleLosses, step: int, last_checkpoint: Path | None
) -> NonFiniteError:
    """Of the validation after a step."""
    spoiled = np.flatnonzero(~np.isfinite(losses.nll))
    return NonFiniteError(
        f"the validation after step {step} gave a NaN or infinity in {len(spoiled)} of "
        f"{len(losses.nll)} examples, first in validation example {spoiled[0]}; "
        f"{_saved(last_checkpoint)}. Look at that example, lower learning_rate, or compute in "
        "float32."
    )


def _saved(last_checkpoint: Path | None) -> str:
    if last_checkpoint is None:
        return "there is no checkpoint yet"
    return f"the last checkpoint is {last_checkpoint}"
