"""An update of the optimizer, and a checkpoint, timed."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.train.checkpoint_store import CheckpointStore
from lorakit.train.least_times import MIN_ROUNDS, were_disturbed
from lorakit.train.settings import LoopSettings


def time_updates(
    model: PreTrainedModel, adapter: Attached, settings: LoopSettings, device: torch.device
) -> tuple[float, float, bool]:
    """Seconds of an update, and of a checkpoint, of the adapter attached to `model`; and whether
    timings of one of them did not agree."""
    state = state_plan_of(model, adapter.parameters(), settings, device.type)
    optimizer = AdamW(
        adapter.parameters(),
        state,
        rule=AdamWRule(
            betas=(settings.adam_beta1, settings.adam_beta2),
            epsilon=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
        ),
    )
    try:
        times = []
        for _ in range(MIN_ROUNDS + 1):
            optimizer.zero_grad()
            began = time.perf_counter()
            flags = optimizer.step(
                1e-6,
                torch.zeros((), device=device),
                divisor=1.0,
                max_grad_norm=settings.max_grad_norm,
            )
            bool(flags.finite)  # waits for the device
            times.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory(prefix="lorakit-") as folder:
            store = CheckpointStore(Path(folder), {}, keep=2)
            store.open()
            checkpoints = []
            for step in range(1, MIN_ROUNDS + 1):
                began = time.perf_counter()
                groups = {"parameters": optimizer.parameters(), "optimizer": optimizer.moments()}
                store.save(step, groups, {})
                checkpoints.append(time.perf_counter() - began)
    finally:
        optimizer.release()
    updates = times[1:]  # before, code is loaded
    return min(updates), min(checkpoints), were_disturbed(updates) or were_disturbed(checkpoints)
