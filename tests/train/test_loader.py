"""The loader never holds up a step: a batch costs the same however many rows there are, and it is
asked for while the step before is still at work."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorakit.data.examples import Example
from lorakit.train.batches import StepBatches
from lorakit.train.loop import train
from lorakit.train.run import Run
from lorakit.train.settings import LoopSettings
from tests.train import runs

BATCH_SIZE = 8


class Counted:
    """An ExampleSet of equal examples that counts which of them are read."""

    fingerprint = "counted"

    def __init__(self, count: int) -> None:
        self.lengths = np.full(count, 24)
        self.trained_lengths = np.full(count, 9)
        self.read: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        self.read[index] += 1
        weights = np.zeros(24, np.float32)
        weights[15:] = 1
        return Example(np.arange(24, dtype=np.int32), weights)


def batches_of(examples: Counted) -> StepBatches:
    return StepBatches(examples, batch_size=BATCH_SIZE, seed=3, token_budget=100, packed=True)


def test_a_batch_reads_its_own_examples_once_each() -> None:
    examples = Counted(100)
    batches = batches_of(examples)
    assert not examples.read
    for step in (0, 7, batches.steps_per_epoch, 3 * batches.steps_per_epoch + 1):
        examples.read.clear()
        batch = batches[step]
        own = [int(i) for micro_batch in batch.micro_batches for i in micro_batch.example_ids]
        assert examples.read == Counter(own) and len(own) == BATCH_SIZE


def cost_of_a_batch(count: int) -> tuple[int, int]:
    """Calls made and bytes held at most for one batch of a set of `count` examples."""
    batches = batches_of(Counted(count))
    _ = batches[0]  # what is loaded at the first use
    calls = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        _ = batches[1]
    finally:
        sys.setprofile(None)
    tracemalloc.start()
    try:
        _ = batches[2]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return calls, peak


def test_a_batch_costs_the_same_of_few_and_of_many_rows() -> None:
    few_calls, few_bytes = cost_of_a_batch(100)
    many_calls, many_bytes = cost_of_a_batch(100_000)
    assert few_calls > BATCH_SIZE and many_calls == few_calls
    assert many_bytes < 1.2 * few_bytes + 4096  # the order alone is 800,000


def test_the_next_batch_is_asked_for_before_a_step_is_waited_for(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    get, settle = StepBatches.__getitem__, Run.settle

    def asked(self: StepBatches, step: int) -> object:
        events.append(f"batch {step}")
        return get(self, step)

    def settled(self: Run, result: Any, *, is_latest: bool) -> None:
        events.append("settle")
        settle(self, result, is_latest=is_latest)

    monkeypatch.setattr(StepBatches, "__getitem__", asked)
    monkeypatch.setattr(Run, "settle", settled)
    settings = LoopSettings(max_steps=4, batch_size=4, learning_rate=1e-3, micro_batch_tokens=48)
    train(runs.adapted_model(tiny_folder), runs.ragged_examples(), settings, run_dir=None)
    # The numbers of a step are read (which waits for the device) when the next one is under way.
    assert events[:5] == ["batch 0", "batch 1", "settle", "batch 2", "settle"]
    assert events.count("settle") == 4
