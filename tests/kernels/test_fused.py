"""The fused autograd functions against autograd over plain products, in float64 and float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from lorakit import kernels
from lorakit.base.storages import quantizations
from lorakit.kernels import Dropped, Projection, RowScale
from tests.tolerances import OP, relative_error

STORAGES = quantizations()
FORMS = ["frozen", "lora", "dora", "biased lora", "biased dora", "dropped lora", "dropped dora"]


def projection(form: str, in_features: int, out_features: int, rows: int, dtype: torch.dtype):
    """A layer of that form with random values; every trained tensor is a leaf."""
    storage = STORAGES["nf4" if "lora" in form else "none"]
    stored = storage.pack(
        torch.randn(out_features, in_features, dtype=dtype), block_size=64, double_quantization=True
    )

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype).requires_grad_()

    bias = leaf(out_features) if "biased" in form else None
    if form == "frozen":
        return Projection(stored, bias)
    keys = torch.randint(-(2**62), 2**62, (rows,))
    dora = {}
    if "dora" in form:
        magnitude = leaf(out_features)
        with torch.no_grad():
            magnitude[0] = 1e-30  # what a magnitude of 0 is taken as
        norm = torch.rand(out_features, dtype=dtype) + 0.5
        scale = RowScale(norm, magnitude.detach() / norm)
        dora = {"magnitude": magnitude, "row_scale": lambda dense: scale}
    return Projection(
        stored,
        bias,
        leaf(3, in_features),
        leaf(out_features, 3),
        0.7,
        dropout=Dropped(keys, 0.3) if "dropped" in form else None,
        **dora,
    )


def plainly(x: torch.Tensor, layer: Projection) -> torch.Tensor:
    """What a projection is defined to compute, for autograd to differentiate."""
    y = x @ layer.weight.dequantize(x.dtype).T
    if layer.lora_A is not None:
        low = x
        if layer.dropout is not None:
            keys, p = layer.dropout.row_keys, layer.dropout.p
            low = x * kernels.dropout_mask(keys, x.shape[-1], p, x.dtype)
        y = y + (low @ layer.lora_A.T) @ layer.lora_B.T * layer.scaling
    if layer.magnitude is not None:
        y = y * (layer.magnitude / layer.row_scale(y).norm)
    return y if layer.bias is None else y + layer.bias


def gated(x: torch.Tensor, gate: Projection, up: Projection, down: Projection) -> torch.Tensor:
    return plainly(nn.functional.silu(plainly(x, gate)) * plainly(x, up), down)


def gradients(
    compute: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    x: torch.Tensor,
    layers: Sequence[Projection],
    grads: Sequence[torch.Tensor],
) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    leaves = [t for layer in layers for t in layer.tensors() if t is not None]
    outputs = compute(x)
    return outputs, torch.autograd.grad(outputs, [x, *leaves], grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "sizes", [(1, 5, 4), (40, 5, 6), (7, 33, 9)]
)  # T, I, O: T over and under I
@pytest.mark.parametrize("forms", [*itertools.permutations(FORMS, 2), ("dora",) * 3, ("lora",)])
def test_projections(forms: tuple[str, ...], sizes: tuple[int, int, int], dtype) -> None:
    rows, in_features, out_features = sizes
    layers = [projection(form, in_features, out_features, rows, dtype) for form in forms]
    x = torch.randn(rows, in_features, dtype=dtype, requires_grad=True)
    grads = [torch.randn(rows, out_features, dtype=dtype) for _ in layers]
    outputs, found = gradients(lambda x: kernels.projections(x, layers), x, layers, grads)
    expected = gradients(lambda x: [plainly(x, layer) for layer in layers], x, layers, grads)
    for ours, exact in zip((*outputs, *found), (*expected[0], *expected[1]), strict=True):
        assert relative_error(ours, exact) < OP[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_gated_mlp(form: str, dtype: torch.dtype) -> None:
    rows, hidden, inner = 11, 8, 20
    gate, up = (projection(form, hidden, inner, rows, dtype) for _ in range(2))
    down = projection(form, inner, hidden, rows, dtype)
    x = torch.randn(rows, hidden, dtype=dtype, requires_grad=True)
    grads = [torch.randn(rows, hidden, dtype=dtype)]
    layers = gate, up, down
    outputs, found = gradients(lambda x: [kernels.gated_mlp(x, *layers)], x, layers, grads)
    expected = gradients(lambda x: [gated(x, *layers)], x, layers, grads)
    for ours, exact in zip((*outputs, *found), (*expected[0], *expected[1]), strict=True):
        assert relative_error(ours, exact) < OP[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision(form: str, dtype: torch.dtype) -> None:
    rows, in_features, out_features = 30, 16, 12
    wide = projection(form, in_features, out_features, rows, torch.float32)
    x = torch.randn(rows, in_features)
    half = Projection(
        wide.weight,
        None if wide.bias is None else wide.bias.detach().to(dtype).requires_grad_(),
        *(wide.lora_A, wide.lora_B, wide.scaling),
        row_scale=wide.row_scale,
        magnitude=wide.magnitude,
        dropout=wide.dropout,
    )
    (y,) = kernels.projections(x.to(dtype).requires_grad_(), [half])
    assert y.dtype == dtype
    assert relative_error(y, plainly(x.to(dtype).float(), wide)) < 2 * OP[dtype]
    y.backward(torch.ones_like(y))
    for tensor in half.tensors():
        assert tensor is None or tensor.grad is not None


def test_an_unused_output_has_no_gradient() -> None:
    layers = [projection("lora", 5, 4, 6, torch.float32) for _ in range(2)]
    x = torch.randn(6, 5, requires_grad=True)
    used, _ = kernels.projections(x, layers)
    used.sum().backward()
    assert layers[0].lora_A.grad is not None and layers[1].lora_A.grad is None


@pytest.mark.parametrize("form", ["lora", "dora"])
def test_what_is_kept(form: str) -> None:
    """x once for all layers, R columns each, and with DoRA the output; no dense weight."""
    rows, in_features, out_features = 50, 8, 12
    layers = [projection(form, in_features, out_features, rows, torch.float32) for _ in range(3)]
    x = torch.randn(rows, in_features, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kernels.projections(x, layers)
    # DoRA: the outputs, and norm and factor of each of their columns.
    outputs = 3 * (rows + 2) * out_features if form == "dora" else 0
    assert sum(kept.values()) == rows * in_features + 3 * rows * 3 + outputs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rms_norm_and_rotary(dtype: torch.dtype) -> None:
    x = torch.randn(9, 3, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(8, dtype=dtype)
    cos, sin = torch.randn(9, 8, dtype=dtype), torch.randn(9, 8, dtype=dtype)
    grad = torch.randn(9, 3, 8, dtype=dtype)
    y = kernels.rotary(kernels.frozen_rms_norm(x, weight, 1e-6), cos, sin)
    (found,) = torch.autograd.grad(y, x, grad)
    wide = x.detach().double().requires_grad_()
    normed = weight.double() * wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    left, right = normed.chunk(2, dim=-1)
    turned = torch.cat([-right, left], dim=-1)
    exact = normed * cos[:, None].double() + turned * sin[:, None].double()
    (expected,) = torch.autograd.grad(exact, wide, grad.double())
    assert relative_error(y, exact) < OP[dtype]
    assert relative_error(found, expected) < OP[dtype]
