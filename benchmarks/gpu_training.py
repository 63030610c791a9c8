"""lorakit's training pieces of `gpu.py`: the loop's own parts over a model made on the device.

Rows are as long as the case says and packed into one micro-batch; of each every token but the first
is trained. Steps are timed between events on the device, without a wait in between. The ceiling is
the bare products of the same step (`replay.py`), replayed in the same process once the model is
gone; it recomputes nothing, whatever the case does.
"""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gpu_model
import numpy as np
import torch
from replay import Piece as ReplayedPiece
from replay import Replay
from sft_ours import ALPHA, B_DEVIATION, LEARNING_RATE, MAX_GRAD_NORM, RANK, SEED, storage_of
from transformers import PreTrainedConfig, PreTrainedModel
from workload import FIRST_ID

from lorakit import kernels
from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.engine.flops import AdaptedShape, step_flops
from lorakit.engine.recompute import Level, RecomputePolicy
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.recipe import LoraConfig
from lorakit.train.batches import StepBatches
from lorakit.train.modes import training_mode
from lorakit.train.settings import LoopSettings
from lorakit.train.step import StepResult, take_step


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        variant: "lora", "qlora" or "qdora".
        num_rows, row_tokens: of a step.
        recompute: how much of the layers.
    """

    variant: str
    num_rows: int
    row_tokens: int
    recompute: Level = "none"

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.row_tokens


@dataclass(frozen=True)
class Place:
    """Where and how long; `Place.of` tells a dry run from a real one."""

    config: PreTrainedConfig
    device: torch.device
    dtype: torch.dtype
    warmup: int
    steps: int

    @classmethod
    def of(cls, *, dry_run: bool) -> Place:
        if dry_run:
            return cls(gpu_model.TINY, torch.device("cpu"), torch.float32, 1, 2)
        return cls(gpu_model.LLAMA_8B, torch.device("cuda"), torch.bfloat16, 10, 20)


class Clock:
    """Moments on the device, told apart from those on the host that queued the work."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._moments: list[Any] = []

    def mark(self) -> None:
        if not self._on_cuda:
            self._moments.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._moments.append(event)

    def seconds(self) -> list[float]:
        """Between one mark and the next."""
        pairs = zip(self._moments, self._moments[1:], strict=False)
        if not self._on_cuda:
            return [after - before for before, after in pairs]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]


def measure(case: Case, place: Place, *, replayed: bool = True) -> dict[str, Any]:
    """Make the model, train, check, replay, and tell."""
    model = gpu_model.ours(place.config, storage_of(case.variant), place.device, place.dtype)
    result = {"load_peak_bytes": peak_bytes(place.device), **trained(model, case, place)}
    del model
    gc.collect()
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    if replayed:
        result["ceiling_seconds"] = ceiling(case, place)
        # Medians: a step that met a hiccup of the machine says nothing about the engine.
        result["share_of_ceiling"] = statistics.median(
            result["ceiling_seconds"]
        ) / statistics.median(result["seconds"])
    return result


def trained(model: PreTrainedModel, case: Case, place: Place) -> dict[str, Any]:
    """Warm up, time the steps, and see whether one waits for the device."""
    adapter = adapted(model, case)
    settings = LoopSettings(batch_size=case.num_rows, seed=SEED)
    plan = state_plan_of(model, adapter.parameters(), settings, place.device.type)
    batches = StepBatches(
        rows_of(case, place),
        batch_size=case.num_rows,
        seed=SEED,
        token_budget=case.num_tokens,
        packed=True,
    )
    with training_mode(model, adapter, RecomputePolicy(case.recompute)) as recompute:
        optimizer = AdamW(adapter.parameters(), plan, rule=AdamWRule())

        def step(number: int) -> StepResult:
            return take_step(
                model,
                adapter,
                optimizer,
                batches[number],
                learning_rate=LEARNING_RATE,
                max_grad_norm=MAX_GRAD_NORM,
                seed=SEED,
                recompute=recompute,
            )

        seconds, losses = timed_steps(step, place)
        peak = peak_bytes(place.device)
        waits = synchronisation(lambda: step(place.warmup + place.steps), place.device)
        optimizer.release()
    return {
        "tokens": case.num_tokens,
        "seconds": seconds,
        "tokens_per_second": case.num_tokens / statistics.median(seconds),
        "peak_bytes": peak,
        "losses": losses,
        "synchronisation": waits,
        "backend": kernels.backend_name(place.device),
        "tflop": flops_of(case, place.config) / 1e12,
    }


def adapted(model: PreTrainedModel, case: Case) -> Attached:
    """An adapter in the middle of a run: products of zeros draw less power and run faster."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, use_dora=case.variant == "qdora"
    )
    adapter = attach_adapter(model, config)
    for name, parameter in adapter.parameters().items():
        if "lora_B" in name:
            parameter.data.normal_(std=B_DEVIATION)
    adapter.parameters_changed()
    return adapter


def timed_steps(step: Callable[[int], StepResult], place: Place) -> tuple[list[float], list[float]]:
    """Seconds of each step after the warm-up, and the losses of all.

    Numbers are read as the loop reads them: those of a step while the next one computes.

    Raises:
        RuntimeError: a step was not finite, so it had no effect.
    """
    clock, losses = Clock(place.device), []
    pending: StepResult | None = None
    for number in range(place.warmup + place.steps):
        if number == place.warmup:
            clock.mark()
        result = step(number)
        if number >= place.warmup:
            clock.mark()
        if pending is not None:
            losses.append(finite_loss(pending))
        pending = result
    assert pending is not None
    losses.append(finite_loss(pending))
    return clock.seconds(), losses


def finite_loss(result: StepResult) -> float:
    loss, _, finite = result.read()
    if not finite:
        raise RuntimeError(f"step {result.batch.step + 1} was not finite: loss {loss}")
    return loss


def synchronisation(step: Callable[[], object], device: torch.device) -> str:
    """Whether a step in steady state waits for the device: "none", or where it does."""
    if device.type != "cuda":
        return "not checked: no CUDA device"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{error} ({place.filename}:{place.lineno})"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def rows_of(case: Case, place: Place) -> ExampleSet:
    """Random rows for every step, the one of the check included."""
    generator = np.random.default_rng(0)
    weights = np.ones(case.row_tokens, dtype=np.float32)
    weights[0] = 0  # nothing predicts it
    shape = ((place.warmup + place.steps + 1) * case.num_rows, case.row_tokens)
    ids = generator.integers(FIRST_ID, place.config.vocab_size, shape).astype(np.int32)
    return examples_in_memory([Example(row, weights) for row in ids])


def ceiling(case: Case, place: Place) -> list[float]:
    """Seconds of the step's bare products, each step after the warm-up."""
    lengths = (case.row_tokens,) * case.num_rows
    piece = ReplayedPiece(lengths, case.num_tokens - case.num_rows)
    clock = Clock(place.device)
    with torch.device(place.device), default_dtype(place.dtype):
        replay = Replay(place.config, RANK, case.num_tokens)
        for number in range(place.warmup + place.steps):
            if number == place.warmup:
                clock.mark()
            replay.step([piece])
            if number >= place.warmup:
                clock.mark()
    return clock.seconds()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors made inside are of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def flops_of(case: Case, config: PreTrainedConfig) -> int:
    """Operations of the step's matrix products, attention and recomputing not counted."""
    hidden, inter = config.hidden_size, config.intermediate_size
    kv = hidden // config.num_attention_heads * config.num_key_value_heads
    shapes = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    shapes += [(hidden, inter), (hidden, inter), (inter, hidden)]
    layers = [
        AdaptedShape(i, o, RANK, layer > 0 or place > 2, case.variant == "qdora")
        for layer in range(config.num_hidden_layers)
        for place, (i, o) in enumerate(shapes)
    ]
    passes = [(case.num_tokens, case.num_tokens - case.num_rows)]
    return step_flops(layers, passes, hidden_size=hidden, vocab_size=config.vocab_size)


def peak_bytes(device: torch.device) -> int | None:
    """The most allocated since the last call; None where PyTorch does not count."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
