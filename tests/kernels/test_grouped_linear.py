"""Products of experts: against float64, and their gradients by finite differences."""

from __future__ import annotations

import pytest
import torch

from lorakit import kernels
from lorakit.base.storages import quantizations
from tests.tolerances import OP, relative_error

E, O, I = 5, 7, 9  # odd sizes: parts share blocks of a packed weight  # noqa: E741
COUNTS = [3, 0, 1, 4, 0]
STORAGES = sorted(quantizations())


def rows(dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(COUNTS), I, generator=generator, dtype=torch.float64).to(dtype)


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def exact(x: torch.Tensor, weight_EOI: torch.Tensor) -> torch.Tensor:
    experts = torch.repeat_interleave(torch.arange(E), torch.tensor(COUNTS))
    return torch.einsum("si,soi->so", x.double(), weight_EOI.double()[experts])


def stored(storage: str, *, transposed: bool):
    shape = (E, I, O) if transposed else (E, O, I)
    pack = quantizations()[storage].pack
    return pack(weight(*shape), block_size=32, double_quantization=True)


def product(x: torch.Tensor, packed, *, transposed: bool) -> torch.Tensor:
    return kernels.frozen_grouped_linear(x, packed, COUNTS, out_features=O, transposed=transposed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_products_and_gradients(storage: str, transposed: bool, dtype: torch.dtype) -> None:
    packed = stored(storage, transposed=transposed)
    dense = packed.dequantize(torch.float64)
    dense_EOI = dense.transpose(1, 2) if transposed else dense
    x = rows(dtype).requires_grad_()
    y = product(x, packed, transposed=transposed)
    assert y.dtype == dtype
    assert relative_error(y, exact(x, dense_EOI)) <= OP[dtype]
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    wide = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(exact(wide, dense_EOI), wide, grad.double())
    (actual,) = torch.autograd.grad(y, x, grad)
    assert relative_error(actual, expected) <= OP[dtype]


@pytest.mark.parametrize("transposed", [False, True])
def test_gradcheck(transposed: bool) -> None:
    packed = stored("nf4", transposed=transposed)
    x = rows(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: product(x, packed, transposed=transposed), x)
    both = (x, weight(E, O, I).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: kernels.grouped_linear(x, w, COUNTS), both)


def test_a_trained_weight_gets_zeros_where_no_row_is() -> None:
    trained = weight(E, O, I).requires_grad_()
    kernels.grouped_linear(rows(torch.float64), trained, COUNTS).sum().backward()
    assert trained.grad is not None
    used = [bool(part.any()) for part in trained.grad]
    assert used == [count > 0 for count in COUNTS]


@pytest.mark.parametrize("storage", STORAGES)
def test_experts_without_rows_are_not_unpacked_and_no_dense_weight_is_kept(storage: str) -> None:
    packed = stored(storage, transposed=False)
    asked: list[int] = []

    class Counting:
        def dequantize_part(self, index, dtype=None, device=None):
            asked.append(index)
            return packed.dequantize_part(index, dtype, device)

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = product(rows().requires_grad_(), Counting(), transposed=False)
    y.sum().backward()
    assert asked == [0, 2, 3] * 2
    assert kept == []


def test_under_autocast_it_computes_in_autocast_s_dtype() -> None:
    x = rows().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = product(x, stored("nf4", transposed=False), transposed=False)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
