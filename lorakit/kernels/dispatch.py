"""Which implementation of an op runs: decided here, and nowhere else.

`reference/` defines every op. A backend is a module with namesakes of some of them, for one type of
device; it is used when it can run here, unless a caller insists on the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch

from lorakit.kernels.reference import dropout, elementwise, four_bit

log = logging.getLogger(__name__)

REFERENCE = "reference"

_REFERENCE: dict[str, Callable[..., Any]] = {
    "column_dots": elementwise.column_dots,
    "dequantize_scales": four_bit.dequantize_scales,
    "four_bit_dequantize": four_bit.four_bit_dequantize,
    "keyed_dropout": dropout.keyed_dropout,
    "rms_norm": elementwise.rms_norm,
    "rms_norm_backward": elementwise.rms_norm_backward,
    "rotary": elementwise.rotary,
    "silu_mul": elementwise.silu_mul,
    "silu_mul_backward": elementwise.silu_mul_backward,
}
_only_reference = False


def backend_name(device: torch.device) -> str:
    """What computes on `device`: `REFERENCE` or the name of a faster backend."""
    return REFERENCE if _only_reference or _backend(device.type) is None else device.type


def is_reference_forced() -> bool:
    """Whether a caller insists on the reference."""
    return _only_reference


@contextmanager
def reference_only() -> Iterator[None]:
    """Inside, every op is the reference's: to compare with, and to rule a backend out."""
    global _only_reference
    before, _only_reference = _only_reference, True
    try:
        yield
    finally:
        _only_reference = before


@cache
def _backend(device_type: str) -> ModuleType | None:
    if device_type != "cpu":
        return None
    # Not at the top: numba takes half a second to load, and not every command computes.
    from lorakit.kernels.cpu import threads

    if not threads.available():
        log.warning(
            "PyTorch's OpenMP library cannot be reached, so ops on the CPU run as plain PyTorch"
        )
        return None
    from lorakit.kernels.cpu import ops

    return ops


def _call(name: str, tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
    backend = None if _only_reference else _backend(tensor.device.type)
    op = getattr(backend, name, None) or _REFERENCE[name]
    return op(*arguments, **options)


def four_bit_dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    code_book: str,
    shape: torch.Size,
    block_size: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See `reference/four_bit.py`."""
    return _call("four_bit_dequantize", codes, codes, absmax, code_book, shape, block_size, dtype)


def dequantize_scales(
    codes: torch.Tensor, nested_absmax: torch.Tensor, nested_offset: torch.Tensor
) -> torch.Tensor:
    """See `reference/four_bit.py`."""
    return _call("dequantize_scales", codes, codes, nested_absmax, nested_offset)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference/elementwise.py`; not differentiable by itself."""
    return _call("rms_norm", x, x, weight, eps)


def rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """See `reference/elementwise.py`."""
    return _call("rms_norm_backward", x, x, weight, inverse, grad)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `reference/elementwise.py`; not differentiable by itself."""
    return _call("silu_mul", gate, gate, up)


def silu_mul_backward(
    gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference/elementwise.py`."""
    return _call("silu_mul_backward", gate, gate, up, grad)


def column_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """See `reference/elementwise.py`."""
    return _call("column_dots", a, a, b)


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """See `reference/elementwise.py`; not differentiable by itself."""
    return _call("rotary", x, x, cos, sin, backward=backward)


def keyed_dropout(x: torch.Tensor, row_keys: torch.Tensor, p: float) -> torch.Tensor:
    """See `reference/dropout.py`; not differentiable by itself."""
    return _call("keyed_dropout", x, x, row_keys, p)
