"""Put a model into the mode the loop trains it in, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.base.config import NOISE_FIELD
from lorakit.base.dtypes import compute_dtype
from lorakit.engine.fuse import fused_modules
from lorakit.engine.recompute import Recompute, RecomputePolicy, recomputing
from lorakit.errors import ModelError

KEEP_ALL = RecomputePolicy()

log = logging.getLogger(__name__)


@contextmanager
def training_mode(
    model: PreTrainedModel, adapter: Attached, policy: RecomputePolicy = KEEP_ALL
) -> Iterator[Recompute]:
    """Inside, `model` trains; afterwards every module is in the mode it was in.

    Args:
        model: with `adapter` attached.
        policy: how much of each layer is recomputed in the backward instead of being kept.

    Yields:
        What is to be told the tokens of each micro-batch.

    Raises:
        ModelError: the base would drop activations at random, or cannot recompute its layers.
    """
    check_no_base_noise(model)
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        with (
            adapter.cached_norms(),
            fused_modules(model),
            recomputing(model, policy, compute_dtype(model).itemsize) as recompute,
        ):
            yield recompute
    finally:
        adapter.dropout.rows = None
        for module, training in modes.items():
            module.training = training


def check_no_base_noise(model: PreTrainedModel) -> None:
    """Refuse a base with active dropout: its masks come from a generator that nobody saves.

    `load_base` loads models without; this is for models that came another way.

    Raises:
        ModelError: naming the modules and config fields.
    """
    noisy = [
        f"{name} (p={module.p})"
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and module.p > 0
    ]
    noisy += [
        f"config.{name}={value}"
        for name, value in vars(model.config).items()
        if NOISE_FIELD.search(name) and type(value) in (int, float) and value > 0
    ]
    if noisy:
        listed = ", ".join(noisy[:5]) + (", ..." if len(noisy) > 5 else "")
        raise ModelError(
            f"the base model drops activations at random: {listed}; possible: dropout on the "
            "adapter alone (lora_dropout), whose masks survive a resume. Load the model with "
            "lorakit.load_base, which sets these to 0."
        )


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads inside, as many as before afterwards; None: no change."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    log.warning("computing with %d CPU threads as the run was started, not with %d", count, before)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
