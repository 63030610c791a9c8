"""Which implementation of an op runs: decided here, and nowhere else.

`reference/` defines every op. A backend is a module with namesakes of some of them, for one type of
device; it is used when it can run here, unless a caller insists on the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from lorakit.kernels import shapes
from lorakit.kernels.reference import cross_entropy as of_logits
from lorakit.kernels.reference import dropout, elementwise, four_bit

log = logging.getLogger(__name__)

REFERENCE = "reference"
NAMES = {"cpu": "cpu", "cuda": "triton"}  # {type of device: its backend, as runs record it}
# Their reference keeps tables for the next call: in a rehearsal these would hold no numbers.
READS_TABLES = frozenset({"four_bit_dequantize", "dequantize_scales"})
OPS: dict[str, Callable[..., Any]] = {}  # {name: the reference's} of all ops below

P = ParamSpec("P")
R = TypeVar("R")
_only_reference = False
_rehearsed_type: str | None = None
_rehearsed_ops: set[str] = set()


def backend_name(device: torch.device) -> str:
    """What computes on `device`: `REFERENCE` or the name of a faster backend."""
    if _only_reference or _backend(device.type) is None:
        return REFERENCE
    return NAMES[device.type]


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


def is_rehearsal() -> bool:
    """Whether tensors hold no data, so that nothing may be read from them."""
    return _rehearsed_type is not None


def computing_type(device: torch.device) -> str:
    """The type of device that computes on `device`; in a rehearsal, that which it is for."""
    return _rehearsed_type or device.type


@contextmanager
def shapes_only(device_type: str) -> Iterator[set[str]]:
    """Inside, ops allocate their results and compute nothing: for tensors that hold no data.

    Gives the names of the ops that were called so far.

    Args:
        device_type: "cpu" or "cuda", what a rehearsal is for.
    """
    global _rehearsed_type, _rehearsed_ops
    before = _rehearsed_type, _rehearsed_ops
    _rehearsed_type, _rehearsed_ops = device_type, set()
    try:
        yield _rehearsed_ops
    finally:
        _rehearsed_type, _rehearsed_ops = before


@cache
def _backend(device_type: str) -> ModuleType | None:
    # Imported here: numba takes half a second to load, and not every command computes.
    if device_type == "cpu":
        from lorakit.kernels.cpu import threads

        if threads.available():
            from lorakit.kernels.cpu import ops as of_cpu

            return of_cpu
        log.warning(
            "PyTorch's OpenMP library cannot be reached, so ops on the CPU run as plain PyTorch"
        )
    if device_type == "cuda":
        reason = _why_no_triton()
        if reason is None:
            from lorakit.kernels.triton import ops as of_triton

            return of_triton
        log.warning("%s, so ops on the GPU run as plain PyTorch", reason)
    return None


def _why_no_triton() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed (pip install 'lorakit[gpu]')"
    from lorakit.kernels.triton import launching

    return launching.why_unavailable()


def _dispatched(
    op: Callable[Concatenate[torch.Tensor, P], R],
) -> Callable[Concatenate[torch.Tensor, P], R]:
    """`op` of the reference, or its namesake in the backend of its first argument's device.

    Not differentiable by itself where a backend computes.
    """
    name = op.__name__
    OPS[name] = op

    @wraps(op)
    def call(tensor: torch.Tensor, /, *arguments: P.args, **options: P.kwargs) -> R:
        return getattr(_backend_for(name, tensor), name, op)(tensor, *arguments, **options)

    return call


def _backend_for(name: str, tensor: torch.Tensor) -> ModuleType | None:
    if _rehearsed_type is not None:
        _rehearsed_ops.add(name)
    if _rehearsed_type is not None and (name in READS_TABLES or not _only_reference):
        return shapes
    return None if _only_reference else _backend(tensor.device.type)


# Each is documented, with its signature, where it is defined.
column_dots = _dispatched(elementwise.column_dots)
cross_entropy = _dispatched(of_logits.cross_entropy)
dequantize_scales = _dispatched(four_bit.dequantize_scales)
four_bit_dequantize = _dispatched(four_bit.four_bit_dequantize)
four_bit_quantize = _dispatched(four_bit.four_bit_quantize)
keyed_dropout = _dispatched(dropout.keyed_dropout)
rms_norm = _dispatched(elementwise.rms_norm)
rms_norm_backward = _dispatched(elementwise.rms_norm_backward)
rotary = _dispatched(elementwise.rotary)
silu_mul = _dispatched(elementwise.silu_mul)
silu_mul_backward = _dispatched(elementwise.silu_mul_backward)
