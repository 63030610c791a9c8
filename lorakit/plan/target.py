"""The machine a plan is for, and where on it the frozen weights will live."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.base.device import compute_device, compute_dtype
from lorakit.base.device_memory import free_bytes, total_bytes
from lorakit.base.offload import DISK, HOST
from lorakit.base.placement import DEVICE, SHARE_OF_FREE_MEMORY, place_layers
from lorakit.errors import ModelError
from lorakit.jail.cgroups import Cgroups
from lorakit.plan.gpus import Gpu
from lorakit.plan.memory import Memory
from lorakit.plan.peaks import CUDA_CONTEXT, Peaks, resident_bytes
from lorakit.recipe import BaseSection


@dataclass(frozen=True)
class Target:
    """The machine a plan is for: this one, or one with a GPU that need not be here.

    Attributes:
        memory_bytes: that the run may take; None: what happens to be free now.
        is_budget: whether somebody said so, who may mean less than there is.
    """

    device: torch.device
    dtype: torch.dtype
    gpu: Gpu | None
    memory_bytes: int | None = None
    is_budget: bool = False

    @staticmethod
    def of(
        base: BaseSection,
        gpu: Gpu | None,
        *,
        budget: int | None = None,
        is_idle: bool = False,
        cgroups: Cgroups | None = None,
    ) -> Target:
        """The target of a recipe; a named GPU, or `device: cuda`, may be elsewhere.

        Args:
            budget: bytes that the run may take.
            is_idle: count on all memory of this machine, whatever of it is free now.
            cgroups: see `host_memory`.
        """
        wanted = None if base.dtype == "auto" else getattr(torch, base.dtype)
        is_here = gpu is None and not base.device.startswith("cuda")
        if is_here:
            device = compute_device(base.device)
            dtype = compute_dtype(wanted, device)
        else:
            has_bfloat16 = gpu is None or gpu.has_bfloat16
            device = torch.device("cuda")
            dtype = wanted or (torch.bfloat16 if has_bfloat16 else torch.float32)
        memory = budget
        if gpu is not None:
            gpu = gpu.with_memory(budget)
            memory = gpu.memory_bytes
        elif memory is None and is_idle and (is_here or torch.cuda.is_available()):
            memory = total_bytes(device, cgroups=cgroups)
        is_budget = budget is not None if gpu is None else gpu.is_budget
        return Target(device, dtype, gpu, memory, is_budget)

    def placement(
        self, layers: Mapping[str, int], base: BaseSection, *, is_loaded: bool = False
    ) -> dict[str, int]:
        """{device: bytes of frozen weights that will live there}.

        Args:
            layers: of the base's weights; see `bytes_by_layer`.
            is_loaded: whether they are there by now, where they are not free any more.
        """
        limit: int | str | None = base.max_device_memory
        offload = base.offload
        if limit is None and self.memory_bytes is not None:
            limit = int(self.memory_bytes * SHARE_OF_FREE_MEMORY)
            if self.is_budget and self.device.type == "cpu" and offload == "auto":
                # Loading knows of no budget, and the host's memory is what a CPU computes in.
                offload = "none"
        if is_loaded and limit is None:
            held = sum(layers.values())
            limit = int((free_bytes(self.device) + held) * SHARE_OF_FREE_MEMORY)
        elsewhere = self.device.type == "cuda" and not torch.cuda.is_available()
        try:
            placed = place_layers(
                layers,
                self.device,
                offload="none" if limit is None and elsewhere else offload,
                max_device_memory=sys.maxsize if limit is None and elsewhere else limit,
            )
        except ModelError:
            asked = self.gpu is not None or self.is_budget
            if not asked or base.max_device_memory is not None:
                raise
            # What cannot be offloaded is too much for it: the plan says so, in numbers.
            placed = place_layers(
                layers, self.device, offload="none", max_device_memory=sys.maxsize
            )
        by_device: dict[str, int] = {}
        for layer in placed:
            where = self.device.type if layer.where == DEVICE else layer.where
            by_device[where] = by_device.get(where, 0) + layer.num_bytes
        return by_device

    def free_bytes(self, memory: Memory, *, is_loaded: bool) -> int:
        """What activations could take once the base and its adapter are there; of a GPU that is
        neither named nor here, without a budget, without end."""
        there = resident_bytes(memory, self.device.type) + memory.adapter
        if self.memory_bytes is not None:
            context = CUDA_CONTEXT if self.device.type == "cuda" else 0
            return max(0, self.memory_bytes - context - there)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            return sys.maxsize
        return max(0, free_bytes(self.device) - (memory.adapter if is_loaded else there))

    def fit(self, memory: Memory, peaks: Peaks, offload: str) -> dict[str, Any] | None:
        """What a named GPU leaves for activations once the known parts are on it, and whether the
        whole run fits, with weights elsewhere only where `offload` (the recipe's) asks for it."""
        if self.gpu is None:
            return None
        resident = memory.known - memory.weights + memory.by_device.get("cuda", 0)
        left = self.gpu.memory_bytes - resident
        needed = peaks.peak + CUDA_CONTEXT
        is_placed = offload in (HOST, DISK) or set(memory.by_device) == {"cuda"}
        return {
            "name": self.gpu.name,
            "memory_bytes": self.gpu.memory_bytes,
            "is_budget": self.gpu.is_budget,
            "left_for_activations": left,
            "needed": needed,
            "fits": is_placed and needed <= self.gpu.memory_bytes,
        }
