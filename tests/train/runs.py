"""Small runs for the tests of this room: ragged examples, a tiny model, and what must be equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base.load import load_base
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.recipe import LoraConfig

TIMING_AND_MEMORY = {"seconds", "tokens_per_second", "peak_bytes"}


def ragged_examples(
    count: int = 11, *, seed: int = 0, weighted: bool = False, longest: int = 24
) -> ExampleSet:
    """Examples of 4 to `longest` tokens, the second part of each trained."""
    generator = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        num_tokens = int(generator.integers(4, longest + 1))
        start = int(generator.integers(1, num_tokens))
        weights = np.zeros(num_tokens, np.float32)
        weights[start:] = generator.uniform(0.2, 2, num_tokens - start) if weighted else 1
        ids = generator.integers(5, 390, num_tokens).astype(np.int32)
        examples.append(Example(ids, weights))
    return examples_in_memory(examples, f"ragged {count} {seed} {weighted} {longest}")


def adapted_model(folder: Path, *, quantization: str = "none", **adapter: Any) -> PreTrainedModel:
    """The model in `folder` with an adapter whose B is not zero: everything has a gradient."""
    model, _ = load_base(folder, quantization=quantization, device="cpu")
    attach_adapter(model, LoraConfig(**({"r": 4} | adapter)))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in attached(model).parameters().items():
        if name.endswith("lora_B"):
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def values(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copies of the adapter's parameters."""
    return {n: p.detach().clone() for n, p in attached(model).parameters().items()}


def logged(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without what depends on the clock and the machine's memory."""
    return [{k: v for k, v in m.items() if k not in TIMING_AND_MEMORY} for m in metrics]


class Watched:
    """An ExampleSet that calls `on_read(number of reads so far)` before every read.

    The one pass over all examples with which `train` checks them is not counted.
    """

    def __init__(self, examples: ExampleSet, on_read: Callable[[int], None]) -> None:
        self._examples = examples
        self._on_read = on_read
        self._reads = -len(examples)
        self.lengths = examples.lengths
        self.trained_lengths = examples.trained_lengths
        self.fingerprint = examples.fingerprint

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        self._reads += 1
        if self._reads > 0:
            self._on_read(self._reads)
        return self._examples[index]
