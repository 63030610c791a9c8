"""linear_logprobs against autograd through the reference, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lorakit import kernels
from lorakit.kernels.reference import logprobs as reference
from tests import tolerances

N, D, V = 7, 5, 11


def _inputs(dtype: torch.dtype, *, num_rows: int = N):
    hidden = torch.randn(num_rows, D, dtype=dtype).requires_grad_()
    head = nn.Linear(D, V, bias=True, dtype=dtype)
    tokens = torch.randint(V, (num_rows,))
    weights = torch.randn(num_rows)
    return hidden, head, tokens, weights


def test_the_definition_is_torch_s() -> None:
    logits, tokens = 3 * torch.randn(N, V, dtype=torch.float64), torch.randint(V, (N,))
    logits[0, 3 if tokens[0] != 3 else 4] = -torch.inf
    expected = torch.distributions.Categorical(logits=logits / 0.7)
    assert torch.allclose(
        reference.logprobs(logits, tokens, temperature=0.7), expected.log_prob(tokens)
    )
    entropies = reference.entropies(logits, temperature=0.7)
    assert torch.allclose(entropies, expected.entropy())


@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_reference(
    dtype: torch.dtype, chunk_rows: int, temperature: float, trains_head: bool
) -> None:
    hidden, head, tokens, weights = _inputs(dtype)
    head.requires_grad_(trains_head)
    parameters = tuple(head.parameters())
    logprobs, entropies = kernels.linear_logprobs(
        hidden,
        head,
        tokens,
        temperature=temperature,
        parameters=parameters,
        with_entropies=True,
        chunk_rows=chunk_rows,
    )
    # Not linear in the log-probabilities: what each weighs is known only after the forward.
    (logprobs.exp() * weights).sum().backward()

    exact = [t.detach().double().requires_grad_() for t in (hidden, *parameters)]
    logits = F.linear(*exact)
    wanted = reference.logprobs(logits, tokens, temperature=temperature)
    (wanted.exp() * weights).sum().backward()

    assert logprobs.dtype == torch.promote_types(dtype, torch.float32)
    assert tolerances.relative_error(logprobs, wanted) < tolerances.OP[dtype]
    assert entropies is not None and not entropies.requires_grad
    expected = reference.entropies(logits.detach(), temperature=temperature)
    assert tolerances.relative_error(entropies, expected) < tolerances.OP[dtype]
    trained = [hidden, *parameters] if trains_head else [hidden]
    for got, other in zip(trained, exact, strict=False):
        assert got.grad is not None and got.grad.dtype == got.dtype
        assert tolerances.relative_error(got.grad, other.grad) < tolerances.OP[dtype]
    assert trains_head or all(p.grad is None for p in parameters)


@pytest.mark.parametrize("trains_head", [False, True])
def test_gradcheck(trains_head: bool) -> None:
    hidden, head, tokens, _ = _inputs(torch.float64)
    head.requires_grad_(trains_head)

    def compute(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        def logits_fn(rows: torch.Tensor) -> torch.Tensor:
            # A softcap, as gemma2's: logits_fn is more than one matrix product.
            return 3 * torch.tanh(F.linear(rows, weight, bias) / 3)

        return kernels.linear_logprobs(
            hidden, logits_fn, tokens, temperature=0.8, parameters=(weight, bias), chunk_rows=3
        )[0]

    assert torch.autograd.gradcheck(compute, (hidden, head.weight, head.bias))


def test_only_the_head_trains() -> None:
    hidden, head, tokens, weights = _inputs(torch.float64)
    logprobs, _ = kernels.linear_logprobs(
        hidden.detach(), head, tokens, parameters=tuple(head.parameters()), chunk_rows=3
    )
    (logprobs * weights).sum().backward()
    exact = [p.detach().clone().requires_grad_() for p in head.parameters()]
    scores = torch.log_softmax(F.linear(hidden.detach(), *exact), dim=-1)
    (scores[torch.arange(N), tokens] * weights).sum().backward()
    for got, wanted in zip(head.parameters(), exact, strict=True):
        assert tolerances.relative_error(got.grad, wanted.grad) < tolerances.OP[torch.float64]


def test_agrees_with_cross_entropy() -> None:
    """One definition of a log-likelihood: in the loss of SFT and in that of a policy."""
    hidden, head, tokens, weights = _inputs(torch.float32)
    head.requires_grad_(False)
    loss, nll = kernels.linear_cross_entropy(hidden, head, tokens, weights, chunk_rows=3)
    loss.backward()
    expected, hidden.grad = hidden.grad, None
    logprobs, entropies = kernels.linear_logprobs(hidden, head, tokens, chunk_rows=3)
    (-logprobs * weights).sum().backward()
    assert entropies is None and torch.equal(-logprobs, nll)
    assert tolerances.relative_error(hidden.grad, expected) < 1e-6


def test_a_head_that_changed_in_between_is_refused() -> None:
    hidden, head, tokens, _ = _inputs(torch.float32)
    logprobs, _ = kernels.linear_logprobs(hidden, head, tokens, parameters=(head.weight, head.bias))
    with torch.no_grad():
        head.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.sum().backward()


def test_without_rows_and_without_gradients() -> None:
    hidden, head, tokens, _ = _inputs(torch.float32, num_rows=0)
    logprobs, entropies = kernels.linear_logprobs(hidden, head, tokens, with_entropies=True)
    logprobs.sum().backward()
    assert logprobs.shape == entropies.shape == (0,) and hidden.grad.shape == (0, D)

    hidden, head, tokens, _ = _inputs(torch.float32)
    head.requires_grad_(False)
    with_grad = kernels.linear_logprobs(hidden, head, tokens, with_entropies=True)
    with torch.no_grad():
        without = kernels.linear_logprobs(hidden, head, tokens, with_entropies=True)
    assert not without[0].requires_grad
    assert torch.equal(with_grad[0].detach(), without[0]) and torch.equal(with_grad[1], without[1])


def test_what_is_kept_is_never_of_the_size_of_the_logits() -> None:
    """And never more logits than a chunk: again in the backward only where the head trains."""
    for trains_head in (False, True):
        hidden, head, tokens, _ = _inputs(torch.float32)
        head.requires_grad_(trains_head)
        rows: list[int] = []
        kept: list[torch.Size] = []

        def logits_fn(chunk, head=head, rows=rows):
            rows.append(len(chunk))
            return head(chunk)

        def keep(tensor, kept=kept):
            kept.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs, _ = kernels.linear_logprobs(
                hidden, logits_fn, tokens, parameters=tuple(head.parameters()), chunk_rows=3
            )
        # What the chunks' own graphs saved is gone with them; the last is the function's.
        own = kept[-4:] if trains_head else kept[-1:]
        assert own == ([(N, D), (N,), (V, D), (V,)] if trains_head else [(N, D)])
        assert rows == [3, 3, 1]
        logprobs.sum().backward()
        assert rows == [3, 3, 1] * (1 + trains_head)
