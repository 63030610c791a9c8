"""What common GPUs have, from their data sheets: does a recipe fit on one, how long does it take.

Products are dense ones (no sparsity) of bfloat16 with float32 sums, which float16's are as fast as;
and those of float32 without tensor cores, for PyTorch rounds to TF32 only where it is told to. Of
GPUs without bfloat16 all are of float32. Of GPUs sold in several forms the SXM one, where there is
one. Memory is not the data sheet's: it is what the driver reports (`nvidia-smi`), less by what
error correction and the driver's own needs take.

Sources: NVIDIA's data sheets of T4, L4, A10, L40S, A100, H100, H200 and B200; for GeForce cards the
architecture white papers of GA102, AD102 and GB202 (tensor cores with float32 accumulation).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from lorakit.base.placement import SHARE_OF_FREE_MEMORY
from lorakit.errors import InputError

MIB = 1 << 20
# Older than Ampere: no bfloat16 arithmetic.
WITHOUT_BFLOAT16 = frozenset({"t4"})


@dataclass(frozen=True)
class Gpu:
    """One row of the table.

    Attributes:
        memory_bytes: all of it that the driver reports, or a budget.
        flops_per_second: of products in half precision.
        float32_flops_per_second: of products in float32.
        bytes_per_second: of its memory.
        link_bytes_per_second: to the host, one way.
        is_budget: whether `memory_bytes` is less than it has, because no more may be taken.
    """

    name: str
    memory_bytes: int
    flops_per_second: float
    float32_flops_per_second: float
    bytes_per_second: float
    link_bytes_per_second: float
    is_budget: bool = False

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16."""
        return self.name not in WITHOUT_BFLOAT16

    def products_per_second(self, dtype: torch.dtype) -> float:
        """Operations of products in a dtype."""
        return self.float32_flops_per_second if dtype == torch.float32 else self.flops_per_second

    def with_memory(self, budget: int | None) -> Gpu:
        """This GPU with no more memory than a budget; None: with all it has."""
        if budget is None or budget >= self.memory_bytes:
            return self
        return replace(self, memory_bytes=budget, is_budget=True)

    def left(self, demanded: int, weights: int) -> int:
        """Bytes that a run leaves, with all weights on it; below 0: it is so much too small.

        Args:
            demanded: at the highest moment, offloaded weights and CUDA's context included.
            weights: of them the frozen ones, which placement gives no more than a share.
        """
        left = self.memory_bytes - demanded
        left_of_share = int(self.memory_bytes * SHARE_OF_FREE_MEMORY) - weights
        return min(left, left_of_share) if left_of_share < 0 else left


# Name: MiB, TFLOP/s in bfloat16 and in float32, GB/s of memory, GB/s of the link (PCIe 3, 4 or 5,
# by its lanes).
# "about": drivers and boards differ by some MiB, and by 6 % where error correction is off.
_SHEETS = {
    "t4": (15_360, 8.1, 8.1, 320, 16),  # about
    "rtx3060": (12_288, 25.5, 12.7, 360, 32),
    "rtx3090": (24_576, 71, 35.6, 936, 32),
    "rtx4060ti": (16_380, 44, 22.1, 288, 16),
    "rtx4090": (24_564, 165, 82.6, 1008, 32),
    "rtx5090": (32_607, 209, 104.8, 1792, 64),
    "l4": (23_028, 121, 30.3, 300, 32),  # about
    "a10": (23_028, 125, 31.2, 600, 32),  # about
    "l40s": (46_068, 362, 91.6, 864, 32),  # about
    "a100-40": (40_960, 312, 19.5, 1555, 32),
    "a100-80": (81_920, 312, 19.5, 2039, 32),
    "h100": (81_559, 989, 67, 3350, 64),
    "h200": (143_771, 989, 67, 4800, 64),
    "b200": (183_359, 2250, 75, 8000, 64),  # about
}
GPUS = {
    name: Gpu(name, memory * MIB, half * 1e12, single * 1e12, memory_rate * 1e9, link_rate * 1e9)
    for name, (memory, half, single, memory_rate, link_rate) in _SHEETS.items()
}
# Of a driver's name: makers, series, and forms of one GPU that the table does not tell apart.
_MAKERS = frozenset({"nvidia", "tesla", "geforce"})
_FORMS = re.compile(r"sxm\d?|pcie|nvl|hbm\d?e?|\d+gb")
# By how much a device's memory may differ from its row: what CUDA keeps, error correction.
_MEMORY_TOLERANCE = 0.08


def find_gpu(name: str) -> Gpu:
    """A GPU by name, upper or lower case, with or without spaces.

    Raises:
        InputError: unknown name.
    """
    key = name.lower().replace(" ", "")
    if key not in GPUS:
        near = nearest(key, GPUS)
        hint = f" Did you mean {near}?" if near else ""
        raise InputError(f"GPU {name!r} is not known; possible: {', '.join(GPUS)}.{hint}")
    return GPUS[key]


def gpu_of_device_name(name: str, memory_bytes: int) -> Gpu | None:
    """The row of a GPU that is here; None: the table does not have it.

    Cards of one name with other memory, those for laptops and parts of a GPU (MIG) are others.

    Args:
        name: as the driver says it, such as "NVIDIA A100-SXM4-80GB".
        memory_bytes: its memory as CUDA reports it.
    """
    words = re.split(r"[\s-]+", name.lower())
    key = "".join(word for word in words if word not in _MAKERS and not _FORMS.fullmatch(word))
    for gpu in GPUS.values():
        if gpu.name.partition("-")[0] == key and (
            abs(memory_bytes / gpu.memory_bytes - 1) <= _MEMORY_TOLERANCE
        ):
            return gpu
    return None


def nearest(name: str, possible: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name.lower(), possible, n=1)), None)
