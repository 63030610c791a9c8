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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_adapted_products_and_gradients(storage: str, transposed: bool, dtype) -> None:
    packed = stored(storage, transposed=transposed)
    dense = packed.dequantize(torch.float64)
    dense_EOI = dense.transpose(1, 2) if transposed else dense
    inputs = [rows(dtype), weight(E, 2, I).to(dtype), weight(2, O, E).permute(2, 1, 0).to(dtype)]
    wide = [tensor.double().requires_grad_() for tensor in inputs]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    options = {"out_features": O, "transposed": transposed}
    y = kernels.grouped_projection(inputs[0], packed, *inputs[1:], 0.7, COUNTS, **options)
    expected = exact(wide[0], dense_EOI + 0.7 * wide[2] @ wide[1])
    assert y.dtype == dtype and relative_error(y, expected) <= 2 * OP[dtype]
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = torch.autograd.grad(y, inputs, grad)
    for ours, right in zip(found, torch.autograd.grad(expected, wide, grad.double()), strict=True):
        assert relative_error(ours, right) <= 2 * OP[dtype]


def test_adapted_products_keep_the_rows_once_and_the_narrow_ones() -> None:
    x, factors = rows().requires_grad_(), (weight(E, 2, I).float(), weight(E, O, 2).float())
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        kernels.grouped_projection(
            *(x, stored("nf4", transposed=False), *factors, 0.7, COUNTS),
            out_features=O,
            transposed=False,
        )
    assert sorted(kept) == sorted([x.numel(), 2 * len(x), *(f.numel() for f in factors)])


def test_adapted_products_unpack_an_expert_with_rows_once_each_way() -> None:
    packed = stored("nf4", transposed=False)
    asked: list[int] = []

    class Counting:
        def dequantize_part(self, index, dtype=None, device=None):
            asked.append(index)
            return packed.dequantize_part(index, dtype, device)

    for needs_x in (True, False):
        factors = weight(E, 2, I).float().requires_grad_(), weight(E, O, 2).float()
        kernels.grouped_projection(
            *(rows().requires_grad_(needs_x), Counting(), *factors, 0.7, COUNTS),
            out_features=O,
            transposed=False,
        ).sum().backward()
    assert asked == [0, 2, 3] * 3  # the last time nothing trains below


def test_to_the_experts_and_back() -> None:
    """Against the sum written out, where some experts get no token and others all of them."""
    num_tokens, size = 6, 3
    chosen = torch.tensor([[4, 0], [1, 0], [0, 4], [0, 1], [1, 0], [0, 4]])
    x = torch.randn(num_tokens, size, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(num_tokens, 2, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(E, dtype=torch.float64)  # what each expert multiplies its tokens with
    routing = kernels.Routing.sorting(chosen)
    experts = chosen.reshape(-1)[routing.order]
    assert experts.tolist() == sorted(experts.tolist())

    def routed(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        sent = kernels.send_to_experts(x, routing) * factors[experts, None].to(x.dtype)
        return kernels.collect_from_experts(sent, weights, routing)

    expected = x * (weights * factors[chosen]).sum(dim=1, keepdim=True)
    assert relative_error(routed(x, weights), expected) <= OP[torch.float64]
    assert torch.autograd.gradcheck(routed, (x, weights))
    with torch.autocast("cpu", torch.bfloat16):
        assert routed(x.float(), weights.float()).dtype == torch.float32
