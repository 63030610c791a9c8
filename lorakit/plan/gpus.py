"""What common GPUs have, from their data sheets: does a recipe fit on one, how long does it take.

Products are dense ones (no sparsity) of bfloat16 with float32 sums; without bfloat16, those
of float32. Of GPUs sold in several forms the SXM one, where there is one.

Sources: NVIDIA's data sheets of T4, L4, A10, L40S, A100, H100, H200 and B200; for GeForce cards the
architecture white papers of GA102, AD102 and GB202 (tensor cores with float32 accumulation).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lorakit.errors import InputError

GIB = 1 << 30
# Older than Ampere: no bfloat16 arithmetic.
WITHOUT_BFLOAT16 = frozenset({"t4"})


@dataclass(frozen=True)
class Gpu:
    """One row of the table.

    Attributes:
        memory_bytes: as on the data sheet.
        flops_per_second: of products in the dtype it computes in.
        bytes_per_second: of its memory.
        link_bytes_per_second: to the host, one way.
    """

    name: str
    memory_bytes: int
    flops_per_second: float
    bytes_per_second: float
    link_bytes_per_second: float

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16."""
        return self.name not in WITHOUT_BFLOAT16

    def with_memory(self, budget: int | None) -> Gpu:
        """This GPU with no more memory than a budget; None: with all it has."""
        return (
            self if budget is None else replace(self, memory_bytes=min(self.memory_bytes, budget))
        )


# Name: GiB, TFLOP/s, GB/s of memory, GB/s of the link (PCIe 3, 4 or 5, by its lanes).
_SHEETS = {
    "t4": (16, 8.1, 320, 16),
    "rtx3060": (12, 25.5, 360, 32),
    "rtx3090": (24, 71, 936, 32),
    "rtx4060ti": (16, 44, 288, 16),
    "rtx4090": (24, 165, 1008, 32),
    "rtx5090": (32, 209, 1792, 64),
    "l4": (24, 121, 300, 32),
    "a10": (24, 125, 600, 32),
    "l40s": (48, 362, 864, 32),
    "a100-40": (40, 312, 1555, 32),
    "a100-80": (80, 312, 2039, 32),
    "h100": (80, 989, 3350, 64),
    "h200": (141, 989, 4800, 64),
    "b200": (192, 2250, 8000, 64),
}
GPUS = {
    name: Gpu(name, memory * GIB, tera * 1e12, memory_rate * 1e9, link_rate * 1e9)
    for name, (memory, tera, memory_rate, link_rate) in _SHEETS.items()
}


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


def nearest(name: str, possible: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name.lower(), possible, n=1)), None)
