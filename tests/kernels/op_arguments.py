"""Arguments for every op of the dispatch table: what all backends are tested with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lorakit.kernels.reference.four_bit import four_bit_quantize, quantize_scales

# (T tokens, D features): one, odd, a power of two and around it, wide and long.
SHAPES = [(1, 1), (1, 5), (3, 7), (17, 64), (130, 129), (2, 4099), (1000, 33)]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


# {op: (T, D) -> its arguments}; the values are such that nothing cancels.
ARGUMENTS: dict[str, Callable[[int, int], tuple]] = {
    "rms_norm": lambda t, d: (floats(t, d), floats(d), 1e-6),
    "rms_norm_backward": lambda t, d: (floats(t, d), floats(d), floats(t).abs(), floats(t, d)),
    "silu_mul": lambda t, d: (3 * floats(t, d), floats(t, d)),
    "silu_mul_backward": lambda t, d: (3 * floats(t, d), floats(t, d), floats(t, d)),
    "column_dots": lambda t, d: (floats(t, d), floats(t, d).abs()),
    "rotary": lambda t, d: (
        floats(t, 3, 2 * d + 1),
        floats(t, 2 * d).cos(),
        floats(t, 2 * d).sin(),
    ),
    "keyed_dropout": lambda t, d: (floats(t, d), torch.randint(-(2**62), 2**62, (t,)), 0.3),
    # More than one value, or the gradient is the rounding of 1 - 1.
    "cross_entropy": lambda t, d: (3 * floats(t, d + 2), torch.randint(d + 2, (t,)), floats(t)),
}
# Bits, which have tests of their own.
EXACT = {"dequantize_scales", "four_bit_dequantize", "four_bit_quantize"}
# Done once, when a model is loaded; on a GPU by the reference.
ONLY_ON_CPUS = {"four_bit_quantize"}


def in_float64(arguments: tuple) -> list[Any]:
    """The same, floating-point tensors in float64."""
    return [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]


def in_a_tuple(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def on(device: torch.device, arguments: tuple, dtype: torch.dtype | None = None) -> list:
    """The arguments on the device, floating-point tensors in `dtype`."""
    return [
        a if not torch.is_tensor(a) else a.to(device, dtype if a.is_floating_point() else None)
        for a in arguments
    ]


def arguments_of(name: str, shape: tuple[int, int], device: torch.device, dtype: torch.dtype):
    """Of one of `ARGUMENTS`, in `dtype` where the op takes it."""
    arguments = on(device, ARGUMENTS[name](*shape), dtype)
    if name == "rms_norm_backward":
        arguments[2] = arguments[2].float()  # as rms_norm gives it
    return arguments


def arguments_of_any(name: str, shape: tuple[int, int], device: torch.device, dtype: torch.dtype):
    """Of any op of the table."""
    count = shape[0] * shape[1]
    if name == "dequantize_scales":
        return on(device, quantize_scales(torch.rand(count)))
    if name == "four_bit_dequantize":
        codes, absmax = four_bit_quantize(torch.randn(count), "nf4", 64)
        scales, *nested = on(device, quantize_scales(absmax))
        weight = codes.to(device), scales, "nf4", torch.Size([count]), 64
        return [*weight, dtype, tuple(nested)]
    return arguments_of(name, shape, device, dtype)


def launches_of(
    op: Callable, monkeypatch: pytest.MonkeyPatch, launch: Callable | None = None
) -> list[tuple[tuple, dict]]:
    """The launches of `op` from now on: their arguments. `launch` stands in for the real one."""
    module = sys.modules[op.__module__]
    seen = []
    go = launch or module.launch

    def note(*arguments: object, **options: object) -> None:
        seen.append((arguments, options))
        go(*arguments, **options)

    monkeypatch.setattr(module, "launch", note)
    return seen
