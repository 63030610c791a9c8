"""What a pass takes: on this machine at measured rates, on a named GPU by its data sheet.

Rates are plain numbers that the training room measures (`train/calibrate.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import torch

from lorakit.engine.model_flops import ModelFlops
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import RecomputePolicy
from lorakit.plan.gpus import Gpu, gpu_of_device_name
from lorakit.plan.prices import CPU
from lorakit.train.rates import DECODE_BATCH, Curve, Rates

# Share of a data sheet's products that training reaches. Not measured: lorakit has not been timed
# on a GPU. Published LoRA runs of 7B and 8B models reach 0.41 to 0.50 on an H100 (NeMo AutoModel
# 402 to 423 TFLOP/s of 989, LoRAFusion about 495) and 0.47 to 0.60 on an RTX 4090 (torchtune);
# small models and short batches, whose launches the host cannot keep up with, fall far below.
EFFICIENCY = 0.40
EFFICIENCY_RANGE = (0.20, 0.55)
# Seconds that a GPU run takes until its first step: imports, data, loading. Not measured.
GPU_START_SECONDS = 60.0


def machine_of(device: torch.device) -> str:
    """What a device that is here is called in a price table: "cpu" or the name of a GPU.

    A GPU that the table of GPUs does not know keeps the driver's name, and has no price.
    """
    if device.type != "cuda":
        return CPU
    name = torch.cuda.get_device_name(device)
    gpu = gpu_of_device_name(name, torch.cuda.get_device_properties(device).total_memory)
    return name if gpu is None else gpu.name


class Machine(Protocol):
    """Seconds of the pieces of a run."""

    @property
    def how(self) -> str:
        """Where these seconds come from."""
        ...

    def micro_batch(self, one: Pass) -> float:
        """Forward and backward."""
        ...

    def loss_pass(self, one: Pass) -> float:
        """Forward alone."""
        ...

    def decode(self, batch: int) -> float:
        """One forward pass that gives each of `batch` answers a token."""
        ...

    @property
    def decode_batch(self) -> int:
        """Answers that are written at a time."""
        ...

    @property
    def step(self) -> float:
        """Of an optimizer step, whatever its tokens."""
        ...

    @property
    def checkpoint(self) -> float:
        """Of writing one."""
        ...

    def formulas(self, count: int) -> float:
        """Of comparing so many."""
        ...

    @property
    def load(self) -> float:
        """Until the base is there."""
        ...


@dataclass(frozen=True)
class Measured:
    """This machine, by its rates.

    Attributes:
        load: seconds until the base is there; 0 where its weights are not here.
        formula_times: {formulas: seconds}; None: there are none to compare.
    """

    flops: ModelFlops
    rates: Rates
    load: float = 0.0
    formula_times: Curve | None = None

    @property
    def how(self) -> str:
        return self.rates.how

    def micro_batch(self, one: Pass) -> float:
        rates, flops = self.rates, self.flops
        alike = Counter(
            zip(rates.kind_of, flops.layers, flops.levels(one, rates.policy), strict=True)
        )
        seconds = sum(
            n * rates.kinds[kind].train.at(work.of_training(one, level).total)
            for (kind, work, level), n in alike.items()
        )
        return seconds + rates.head.at(one.trained)

    def loss_pass(self, one: Pass) -> float:
        alike = Counter(zip(self.rates.kind_of, self.flops.layers, strict=True))
        seconds = sum(
            n * self.rates.kinds[kind].forward.at(work.of_forward(one))
            for (kind, work), n in alike.items()
        )
        return seconds + self.rates.head_forward.at(one.trained)

    def decode(self, batch: int) -> float:
        return self.rates.decode  # of fewer it is at most as much

    @property
    def decode_batch(self) -> int:
        return DECODE_BATCH

    def formulas(self, count: int) -> float:
        return self.formula_times.at(count) if count and self.formula_times else 0.0

    @property
    def step(self) -> float:
        return self.rates.step

    @property
    def checkpoint(self) -> float:
        return self.rates.checkpoint


@dataclass(frozen=True)
class DataSheet:
    """A GPU nobody timed, by what its maker says and an assumed efficiency.

    Attributes:
        weight_bytes: of the frozen base that are on it.
        offloaded_bytes: of the frozen base that come over the link in every pass.
        unpacked_bytes: what packed weights become before each pass uses them.
        count: GPUs that share the passes of a step.
        policy: recompute.
        dtype: that is computed in.
    """

    flops: ModelFlops
    gpu: Gpu
    efficiency: float
    weight_bytes: int
    offloaded_bytes: int
    unpacked_bytes: int
    count: int
    policy: RecomputePolicy
    dtype: torch.dtype
    decode_batch: int = DECODE_BATCH
    checkpoint: float = 0.0
    load: float = GPU_START_SECONDS

    @property
    def how(self) -> str:
        low, high = EFFICIENCY_RANGE
        return (
            f"{self.count} x {self.gpu.name}, data sheet: {self._products / 1e12:g} TFLOP/s in "
            f"{str(self.dtype).removeprefix('torch.')} times an assumed efficiency of "
            f"{self.efficiency:g} (not measured; {low:g} to {high:g} is usual)"
        )

    def micro_batch(self, one: Pass) -> float:
        recomputed = self.policy.levels(self.flops.layer_bytes, one.tokens).count("full") > 0
        return self._pass(self.flops.training(one, self.policy), reads=3 if recomputed else 2)

    def loss_pass(self, one: Pass) -> float:
        return self._pass(self.flops.evaluation(one), reads=1)

    def decode(self, batch: int) -> float:
        one = Pass(batch, batch, (1,) * batch)
        return self._pass(self.flops.evaluation(one), reads=1) * self.count  # not shared

    def formulas(self, count: int) -> float:
        return 0.0  # its host's, which is not known

    @property
    def step(self) -> float:
        return self.flops.step / self._speed

    @property
    def _speed(self) -> float:
        return self._products * self.efficiency * self.count

    @property
    def _products(self) -> float:
        return self.gpu.products_per_second(self.dtype)

    def _pass(self, flops: float, *, reads: int) -> float:
        """Products, or reading the weights where that takes longer; unpacking and the link come
        on top, as often as the pass reads the weights."""
        sheet = self.gpu
        unpacking = 2 * self.unpacked_bytes / sheet.bytes_per_second
        reading = self.weight_bytes / sheet.bytes_per_second
        link = self.offloaded_bytes / sheet.link_bytes_per_second
        return max(flops / self._speed, reads * reading / self.count) + (
            reads * (unpacking + link) / self.count
        )
