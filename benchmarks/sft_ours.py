"""lorakit's side of `sft_peers.py`: the starting adapter, and training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Memory, step_seconds
from transformers import PreTrainedModel
from workload import ROWS_PER_STEP, Row, num_tokens, steps_of

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.save import save_adapter
from lorakit.adapters.store import load_adapter
from lorakit.base.config import model_config, read_config
from lorakit.base.load import load_weights
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.data.pack import epoch_order
from lorakit.recipe import LoraConfig
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings

RANK, ALPHA = 16, 32
LEARNING_RATE, MAX_GRAD_NORM, SEED = 2e-4, 1.0, 42
B_DEVIATION = 0.02


def storage_of(variant: str) -> str:
    """How the base is stored: "none" or "nf4"."""
    return "nf4" if variant.startswith("q") else "none"


def load(model: Path, storage: str) -> PreTrainedModel:
    """The frozen base in float32; 4-bit with double quantization, 64 weights a block."""
    loaded, _ = load_weights(
        model,
        model_config(read_config(model / "config.json")),
        quantization=storage,
        double_quantization=True,
        block_size=64,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return loaded


def make_adapter(model: Path, variant: str, dropout: float, folder: Path) -> None:
    """Write the adapter that all contestants start from, in PEFT's format.

    B is small but not zero, as in the middle of a run: at zero A would have no gradient, and a
    fault in it would not show in the first losses.
    """
    loaded = load(model, storage_of(variant))
    use_dora = variant in ("dora", "qdora")
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, use_dora=use_dora)
    adapter = attach_adapter(loaded, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapter.parameters().items():
        if "lora_B" in name:
            parameter.data.normal_(std=B_DEVIATION, generator=generator)
    adapter.parameters_changed()
    save_adapter(loaded, folder)


def measure(
    model: Path, adapter: Path, variant: str, rows: list[Row], warmup: int, **options: Any
) -> dict[str, Any]:
    """Load, train, and tell.

    Args:
        options: fields of LoopSettings that differ from its defaults.
    """
    memory = Memory()
    imports = memory.now()
    loaded = load(model, storage_of(variant))
    load_adapter(loaded, adapter)
    load_peak = memory.peak()
    memory.forget()
    settings = LoopSettings(
        num_train_epochs=1,
        batch_size=ROWS_PER_STEP,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=MAX_GRAD_NORM,
        seed=SEED,
        **options,
    )
    started = time.process_time()
    outcome = train(loaded, in_order(rows), settings)
    cpu_seconds = time.process_time() - started
    ends = [line["seconds"] for line in outcome.metrics]
    return {
        "tokens": [num_tokens(step) for step in steps_of(rows)][warmup:],
        "seconds": step_seconds(ends, warmup),
        "cpu_seconds": cpu_seconds,
        "losses": [line["loss"] for line in outcome.metrics],
        "imports_bytes": imports,
        "load_peak_bytes": load_peak,
        "peak_bytes": memory.peak(),
        "choices": outcome.choices.to_json(),
    }


def in_order(rows: list[Row]) -> ExampleSet:
    """The set whose shuffled order is that of `rows`: each step sees the rows the peers see."""
    placed: list[Example | None] = [None] * len(rows)
    for row, place in zip(rows, epoch_order(len(rows), None, SEED, 0), strict=True):
        weights = (np.arange(len(row.input_ids)) >= row.prompt).astype(np.float32)
        placed[place] = Example(row.input_ids, weights)
    return examples_in_memory([example for example in placed if example is not None])
