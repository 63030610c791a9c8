"""frozen_linear: against float64, over every storage; what it keeps for the backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorakit import kernels
from lorakit.base.frozen_linear import FrozenWeight
from lorakit.base.offload import HostWeight, to_disk
from lorakit.base.storages import quantizations
from lorakit.base.storages.dense import DenseWeight
from tests.tolerances import OP, relative_error

SHAPES = [(1, 1), (3, 7), (17, 5), (64, 33)]  # (O, I)


def stored_weights(weight: torch.Tensor, tmp_path) -> dict[str, FrozenWeight]:
    """Every way to hold a weight (O, I)."""
    ways: dict[str, FrozenWeight] = {
        name: module.pack(weight.clone(), block_size=32, double_quantization=True)
        for name, module in quantizations().items()
    }
    ways["transposed"] = DenseWeight(weight.t().clone(), transposed=True)
    ways["host"] = HostWeight(ways["nf4"])
    ways["disk"] = to_disk(ways["nf4"], tmp_path / "nf4.safetensors")
    ways["disk dense"] = to_disk(ways["transposed"], tmp_path / "dense.safetensors")
    return ways


WAYS = [*quantizations(), "transposed", "host", "disk", "disk dense"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_in_float64(way: str, shape: tuple[int, int], tmp_path) -> None:
    stored = stored_weights(torch.randn(shape, dtype=torch.float64), tmp_path)[way]
    x = torch.randn(2, 3, shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape[0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: kernels.frozen_linear(x, stored, b), (x, bias))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_against_float64(way: str, dtype: torch.dtype, tmp_path) -> None:
    stored = stored_weights(torch.randn(17, 40, dtype=torch.float64), tmp_path)[way]
    x = torch.randn(5, 40, dtype=torch.float64)
    grad = torch.randn(5, 17, dtype=torch.float64)
    dense = stored.dequantize(torch.float64)
    x_in = x.to(dtype).requires_grad_()
    bias = torch.randn(17).to(dtype).requires_grad_()
    y = kernels.frozen_linear(x_in, stored, bias)
    y.backward(grad.to(dtype))
    assert y.dtype == x_in.grad.dtype == dtype
    assert relative_error(y, x @ dense.T + bias.double()) < OP[dtype]
    assert relative_error(x_in.grad, grad @ dense) < OP[dtype]
    assert relative_error(bias.grad, grad.sum(0)) < OP[dtype]


@pytest.mark.parametrize("way", WAYS)
def test_keeps_no_tensor_for_the_backward(way: str, tmp_path) -> None:
    stored = stored_weights(torch.randn(17, 40), tmp_path)[way]
    kept: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    x = torch.randn(5, 40, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = kernels.frozen_linear(x, stored, None)
    assert kept == []
    assert not any(isinstance(v, torch.Tensor) for v in vars(y.grad_fn).values())


def test_a_leading_shape_is_kept_and_empty_batches_work(tmp_path) -> None:
    stored = DenseWeight(torch.randn(4, 6))
    for shape in [(6,), (0, 6), (2, 3, 6), (1, 2, 3, 6)]:
        x = torch.randn(shape, requires_grad=True)
        y = kernels.frozen_linear(x, stored, None)
        y.sum().backward()
        assert y.shape == (*shape[:-1], 4) and x.grad.shape == shape


def test_under_autocast_it_computes_in_autocast_dtype(tmp_path) -> None:
    weight = torch.randn(4, 6)
    x = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = kernels.frozen_linear(x, DenseWeight(weight), None)
        expected = nn.functional.linear(x, weight)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)
    assert x.grad.dtype == torch.float32
