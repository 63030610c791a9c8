"""The worst of a run before its first step: what does not fit shows at once, not at step 4,000.

The micro-batches that take the most memory are run forward and backward, the optimizer goes through
a step that it refuses, and the largest micro-batch of a validation is measured. Nothing of it
stays: parameters, moments, counters and random numbers are, bit for bit, those of a run without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lorakit.base.dtypes import compute_dtype
from lorakit.data.examples import ExampleSet, some_examples
from lorakit.engine.activations import layer_bytes
from lorakit.engine.recompute import Recompute
from lorakit.errors import RunError
from lorakit.train.batches import StepBatches
from lorakit.train.choices import Choices
from lorakit.train.losses import example_losses
from lorakit.train.settings import LoopSettings
from lorakit.train.setup import Setup
from lorakit.train.step import backward_with_room
from lorakit.train.worst import Worst, worst_of_set, worst_of_steps

# What PyTorch says when the system refuses memory on a CPU; it has no class for it there.
_CPU_REFUSAL = "can't allocate memory"

log = logging.getLogger(__name__)


def run_worst_first(
    setup: Setup, batches: StepBatches, num_steps: int, recompute: Recompute
) -> None:
    """Take the memory that the run will take at its worst.

    Args:
        setup: of the run, its model in the mode it trains in.
        batches: of its steps.
        num_steps: of the whole run; the largest of those that are left is looked for.
        recompute: of `training_mode`.

    Raises:
        RunError: it does not fit; the message says what to change.
    """
    model, steps = setup.job.model, range(setup.first_step, num_steps)
    if not steps:
        return
    layers = layer_bytes(model, compute_dtype(model).itemsize)
    worst = worst_of_steps(batches, steps, policy=setup.choices.recompute_policy, layers=layers)
    tokens = int(batches.examples.lengths[list(worst.groups[0])].sum())
    log.info("first the largest micro-batch of the run, of %d tokens, to see that it fits", tokens)
    with same_random_numbers(model.device):
        _train_on(setup, batches, worst, recompute)
        if setup.job.validation is not None:
            _measure_largest(setup, setup.job.validation)


def _train_on(setup: Setup, batches: StepBatches, worst: Worst, recompute: Recompute) -> None:
    job, optimizer = setup.job, setup.optimizer
    lengths = batches.examples.lengths[list(worst.groups[0])]
    with _told("micro-batch of this run", lengths, job.settings, setup.choices):
        for group in worst.groups:
            batch = batches.batch_of(setup.first_step, group)
            seed = job.settings.seed
            backward_with_room(job.model, job.adapter, optimizer, batch, seed, recompute)
        optimizer.rehearse()
        optimizer.forget_pages()
        job.adapter.parameters_changed()


def _measure_largest(setup: Setup, validation: ExampleSet) -> None:
    job, budget, packed = setup.job, setup.choices.micro_batch_tokens, setup.choices.packed
    group = worst_of_set(validation, token_budget=budget, packed=packed)
    with _told("validation batch", validation.lengths[list(group)], job.settings, setup.choices):
        example_losses(
            job.model,
            some_examples(validation, np.array(group)),
            token_budget=budget,
            packed=packed,
            pad_id=job.pad_id,
            description="largest validation batch",
        )


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Afterwards PyTorch's generators draw what they would have drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def _told(
    what: str, lengths: np.ndarray, settings: LoopSettings, choices: Choices
) -> Iterator[None]:
    told = (
        f"the largest {what}, {lengths.sum()} tokens in {len(lengths)} examples, the longest "
        f"{lengths.max()}, does"
    )
    longest = int(lengths.max())
    advice = [*cheapest_changes(longest, settings, choices), f"data.max_length below {longest}"]
    with told_of_refusal(told, "; ".join(advice)):
        yield


@contextmanager
def told_of_refusal(what: str, advice: str) -> Iterator[None]:
    """A refusal of memory as an error that says what would fit.

    Args:
        what: is tried, with its verb: `the largest micro-batch does`.
        advice: changes of the recipe, the cheapest first.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_refusal = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_refusal and _CPU_REFUSAL not in str(error):
            raise
        raise RunError(
            f"{what} not fit the memory (found before the first step; no step was done). Set one "
            f"or more of: {advice}. `lorakit plan` says what each would take."
        ) from error


def cheapest_changes(longest: int, settings: LoopSettings, choices: Choices) -> list[str]:
    """What makes the passes of training smaller without other rows, the cheapest first.

    Args:
        longest: tokens of the longest example.
    """
    found = []
    if choices.micro_batch_tokens > longest:
        found.append(f"train.micro_batch_tokens: {max(longest, choices.micro_batch_tokens // 2)}")
    if choices.recompute != "full":
        found.append("train.gradient_checkpointing: true")
    if settings.optim == "adamw_torch":
        found.append("train.optim: paged_adamw_8bit")
    return [*found, "base.quantization: nf4 (if it is not yet)"]
