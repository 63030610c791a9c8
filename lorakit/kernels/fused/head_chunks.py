"""How the rows that an output head reads are cut up, so that all logits never exist at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorakit.kernels import dispatch

# Rows whose logits exist at once. On a CPU few keep a chunk of a vocabulary of 50k at 24 MiB, below
# the size that the C library gives back to the system each time; on a GPU products need more rows:
# with a vocabulary of 128k, 256 MiB of float32.
CHUNK_ROWS = {"cpu": 128}
CHUNK_ROWS_ELSEWHERE = 512

LogitsFn = Callable[[torch.Tensor], torch.Tensor]


def chunks(hidden: torch.Tensor, chunk_rows: int | None) -> list[slice]:
    """Slices of the rows of `hidden` (N, D), in order.

    Args:
        chunk_rows: rows of each; None: what suits the device.
    """
    if chunk_rows is None:
        chunk_rows = CHUNK_ROWS.get(dispatch.computing_type(hidden.device), CHUNK_ROWS_ELSEWHERE)
    return [slice(start, start + chunk_rows) for start in range(0, len(hidden), chunk_rows)]


def accumulated(tensor: torch.Tensor) -> torch.Tensor:
    """In the dtype that sums over chunks are made in: float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def empty_rows(hidden: torch.Tensor) -> torch.Tensor:
    """(N,), a number for each row of `hidden`, in float32 or wider."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return torch.empty(len(hidden), dtype=dtype, device=hidden.device)
