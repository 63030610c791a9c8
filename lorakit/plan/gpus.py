"""Memory of common GPUs, to say whether a recipe can fit on one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from lorakit.errors import InputError

GIB = 1 << 30

# Name: GiB on the data sheet.
GPUS = {
    "t4": 16,
    "rtx3060": 12,
    "rtx3090": 24,
    "rtx4060ti": 16,
    "rtx4090": 24,
    "rtx5090": 32,
    "l4": 24,
    "a10": 24,
    "l40s": 48,
    "a100-40": 40,
    "a100-80": 80,
    "h100": 80,
    "h200": 141,
    "b200": 192,
}


# Older than Ampere: no bfloat16 arithmetic.
WITHOUT_BFLOAT16 = frozenset({"t4"})


@dataclass(frozen=True)
class Gpu:
    """One row of the table: bytes of memory, and whether it computes in bfloat16."""

    name: str
    memory_bytes: int
    has_bfloat16: bool


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
    return Gpu(key, GPUS[key] * GIB, key not in WITHOUT_BFLOAT16)


def nearest(name: str, possible: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name.lower(), possible, n=1)), None)
