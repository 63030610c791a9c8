"""linear_cross_entropy against torch's cross_entropy, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lorakit import kernels
from tests import tolerances

N, D, V = 7, 5, 11


def _inputs(dtype: torch.dtype, *, num_rows: int = N):
    hidden = torch.randn(num_rows, D, dtype=dtype).requires_grad_()
    head = nn.Linear(D, V, bias=True, dtype=dtype)
    targets = torch.randint(V, (num_rows,))
    weights = torch.rand(num_rows)
    return hidden, head, targets, weights


@pytest.mark.parametrize("chunk_rows", [1, 3, N, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equals_torch_cross_entropy(dtype: torch.dtype, chunk_rows: int) -> None:
    hidden, head, targets, weights = _inputs(dtype)
    parameters = tuple(head.parameters())
    loss, nll = kernels.linear_cross_entropy(
        hidden, head, targets, weights, parameters=parameters, chunk_rows=chunk_rows
    )
    (loss / 3).backward()
    actual = [hidden.grad, *(p.grad for p in parameters)]

    exact = [t.detach().double().requires_grad_() for t in (hidden, *parameters)]
    expected_nll = F.cross_entropy(F.linear(*exact), targets, reduction="none")
    ((expected_nll * weights).sum() / 3).backward()

    assert loss.dtype == nll.dtype == torch.promote_types(dtype, torch.float32)
    assert not nll.requires_grad
    assert tolerances.relative_error(nll, expected_nll.detach()) < tolerances.OP[dtype]
    assert loss.item() == pytest.approx((nll * weights).sum().item(), rel=1e-6)
    for got, wanted, source in zip(actual, exact, (hidden, *parameters), strict=True):
        assert got.dtype == source.dtype
        assert tolerances.relative_error(got, wanted.grad) < tolerances.OP[dtype]


def test_gradcheck() -> None:
    hidden, head, targets, weights = _inputs(torch.float64)
    head.requires_grad_(True)

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        def logits_fn(rows: torch.Tensor) -> torch.Tensor:
            # A softcap, as gemma2's: logits_fn is more than one matrix product.
            return 3 * torch.tanh(F.linear(rows, weight, bias) / 3)

        return kernels.linear_cross_entropy(
            hidden, logits_fn, targets, weights, parameters=(weight, bias), chunk_rows=3
        )[0]

    assert torch.autograd.gradcheck(loss, (hidden, head.weight, head.bias))


def test_frozen_head_gets_no_gradient_and_a_frozen_input_none_either() -> None:
    hidden, head, targets, weights = _inputs(torch.float32)
    head.requires_grad_(False)
    loss, _ = kernels.linear_cross_entropy(
        hidden, head, targets, weights, parameters=tuple(head.parameters()), chunk_rows=2
    )
    loss.backward()
    assert hidden.grad is not None and head.weight.grad is None

    loss, _ = kernels.linear_cross_entropy(hidden.detach(), head, targets, weights, chunk_rows=2)
    assert not loss.requires_grad


def test_a_tied_head_adds_its_gradient_to_the_embedding_s() -> None:
    table = nn.Parameter(torch.randn(V, D, dtype=torch.float64))
    ids, targets, weights = torch.randint(V, (N,)), torch.randint(V, (N,)), torch.rand(N)
    loss, _ = kernels.linear_cross_entropy(
        table[ids].tanh(),
        lambda x: x @ table.T,
        targets,
        weights,
        parameters=(table,),
        chunk_rows=3,
    )
    loss.backward()
    actual, table.grad = table.grad, None
    (
        F.cross_entropy(table[ids].tanh() @ table.T, targets, reduction="none") * weights
    ).sum().backward()
    assert tolerances.relative_error(actual, table.grad) < tolerances.OP[torch.float64]


def test_no_trained_position() -> None:
    hidden, head, targets, weights = _inputs(torch.float32, num_rows=0)
    loss, nll = kernels.linear_cross_entropy(hidden, head, targets, weights, chunk_rows=4)
    loss.backward()
    assert loss.item() == 0 and nll.shape == (0,) and hidden.grad.shape == (0, D)


def test_never_more_logits_than_a_chunk() -> None:
    hidden, head, targets, weights = _inputs(torch.float32)
    rows = []

    def logits_fn(chunk: torch.Tensor) -> torch.Tensor:
        rows.append(len(chunk))
        return head(chunk)

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            kernels.linear_cross_entropy(hidden, logits_fn, targets, weights, chunk_rows=3)
    assert rows == [3, 3, 1] * 2


def test_without_gradients_the_values_are_the_same_bits() -> None:
    hidden, head, targets, weights = _inputs(torch.float32)
    with_grad = kernels.linear_cross_entropy(hidden, head, targets, weights, chunk_rows=3)
    with torch.no_grad():
        without = kernels.linear_cross_entropy(hidden, head, targets, weights, chunk_rows=3)
    assert torch.equal(with_grad[0].detach(), without[0]) and torch.equal(with_grad[1], without[1])
