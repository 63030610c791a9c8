"""Log-probabilities of given tokens under an output head, without ever holding all logits.

N rows, D hidden size, V vocabulary, C rows of one chunk, t temperature.

    logprob_i = z_i[token_i] / t - logsumexp(z_i / t),  z_i = logits_fn(hidden_i)
    d logprob_i / d z_i = (onehot_i - softmax(z_i / t)) / t

What a policy's loss makes of its log-probabilities is known only when all of them are, so unlike
`linear_cross_entropy` the forward knows no weights. But row i of the hidden states moves logprob_i
alone: its slope (D numbers) is made right after the chunk's logits, and the backward pass scales it
by d loss / d logprob_i. Only where the head itself trains are logits made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch
from lorakit.kernels.fused.head_chunks import LogitsFn, accumulated, chunks, empty_rows
from lorakit.kernels.reference import logprobs as reference


def linear_logprobs(
    hidden: torch.Tensor,
    logits_fn: LogitsFn,
    tokens: torch.Tensor,
    *,
    temperature: float = 1.0,
    parameters: Sequence[torch.Tensor] = (),
    with_entropies: bool = False,
    chunk_rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each token, differentiable, and the entropy of its distribution.

    What it costs, in products of C rows with the head's (V, D): 1 a chunk without gradients. With a
    frozen head 2 in the forward and none in the backward, as `linear_cross_entropy`; kept is one
    (N, D) in the dtype of `hidden`. With a head that trains 1 in the forward and 3 in the backward
    (logits again, both gradients); kept are the arguments alone. Entropies take no product, but
    another pass over a chunk's logits, and a temperature other than 1 a float32 copy of them.

    Args:
        hidden: (N, D), what the head reads before each token; N may be 0.
        logits_fn: (C, D) -> (C, V), row by row.
        tokens: int64 (N,), values in [0, V).
        temperature: above 0; logits are divided by it, for both results.
        parameters: trainable tensors that `logits_fn` uses; they receive gradients too, and must
            not change before the backward pass.
        with_entropies: whether entropies are computed.
        chunk_rows: rows whose logits exist at the same time; None: what suits the device.

    Returns:
        logprobs: (N,), float32 (float64 for float64 hidden), at most 0.
        entropies: (N,), same dtype, detached, in nats; or None.
    """
    parameters = tuple(parameters)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (hidden, *parameters)):
        return _LinearLogprobs.apply(
            hidden, logits_fn, tokens, temperature, with_entropies, chunk_rows, *parameters
        )
    return _values(hidden, logits_fn, tokens, temperature, with_entropies, chunk_rows)


@torch.no_grad()
def _values(
    hidden: torch.Tensor,
    logits_fn: LogitsFn,
    tokens: torch.Tensor,
    temperature: float,
    with_entropies: bool,
    chunk_rows: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    logprobs = empty_rows(hidden)
    entropies = empty_rows(hidden) if with_entropies else None
    for rows in chunks(hidden, chunk_rows):
        scores = _scores(logits_fn(hidden[rows]), temperature)
        logprobs[rows] = -dispatch.cross_entropy(scores, tokens[rows], needs_grad=False)[0]
        if entropies is not None:
            entropies[rows] = reference.entropies(scores)
    return logprobs, entropies


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        logits_fn: LogitsFn,
        tokens: torch.Tensor,
        temperature: float,
        with_entropies: bool,
        chunk_rows: int | None,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ctx.logits_fn, ctx.temperature, ctx.chunk_rows = logits_fn, temperature, chunk_rows
        ctx.head_trains = any(p.requires_grad for p in parameters)
        if ctx.head_trains:
            # Saved also so that autograd notices a parameter that changed in the meantime.
            ctx.save_for_backward(hidden, tokens, *parameters)
            logprobs, entropies = _values(
                hidden, logits_fn, tokens, temperature, with_entropies, chunk_rows
            )
        else:
            logprobs, entropies, slopes = _values_and_slopes(
                hidden, logits_fn, tokens, temperature, with_entropies, chunk_rows
            )
            ctx.save_for_backward(slopes)
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logprobs_grad: torch.Tensor, _: torch.Tensor | None):
        if not ctx.head_trains:
            (slopes,) = ctx.saved_tensors
            hidden_grad = slopes * logprobs_grad[:, None].to(slopes.dtype)
            return hidden_grad, *[None] * (len(ctx.needs_input_grad) - 1)
        hidden, tokens, *parameters = ctx.saved_tensors
        hidden_grad, parameter_grads = _gradients(ctx, hidden, tokens, parameters, logprobs_grad)
        return hidden_grad, None, None, None, None, None, *parameter_grads


def _values_and_slopes(
    hidden: torch.Tensor,
    logits_fn: LogitsFn,
    tokens: torch.Tensor,
    temperature: float,
    with_entropies: bool,
    chunk_rows: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """With d logprob_i / d hidden_i, (N, D)."""
    logprobs = empty_rows(hidden)
    entropies = empty_rows(hidden) if with_entropies else None
    slopes = torch.empty_like(hidden)
    for rows in chunks(hidden, chunk_rows):
        with torch.enable_grad():
            chunk = hidden[rows].detach().requires_grad_()
            logits = logits_fn(chunk)
        scores = _scores(logits.detach(), temperature)
        nll, downhill = dispatch.cross_entropy(scores, tokens[rows])
        assert downhill is not None
        logprobs[rows] = -nll
        if entropies is not None:
            entropies[rows] = reference.entropies(scores)
        (grad,) = torch.autograd.grad(logits, chunk, downhill.to(logits.dtype))
        # Row by row the gradient is linear: rows are scaled, not the many more logits.
        slopes[rows] = grad / -temperature
    return logprobs, entropies, slopes


def _gradients(
    ctx: Any,
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    logprobs_grad: torch.Tensor,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """Of the hidden states, where they have one, and of the head's parameters."""
    trained = [p for p in parameters if p.requires_grad]
    totals = [accumulated(torch.zeros_like(p)) for p in trained]
    hidden_grad = torch.empty_like(hidden) if hidden.requires_grad else None
    weights = -logprobs_grad / ctx.temperature
    for rows in chunks(hidden, ctx.chunk_rows):
        with torch.enable_grad():
            chunk = hidden[rows].detach().requires_grad_()
            logits = ctx.logits_fn(chunk)
        scores = _scores(logits.detach(), ctx.temperature)
        _, logits_grad = dispatch.cross_entropy(scores, tokens[rows], weights[rows])
        assert logits_grad is not None
        of_chunk, *grads = torch.autograd.grad(
            logits, [chunk, *trained], logits_grad.to(logits.dtype)
        )
        if hidden_grad is not None:
            hidden_grad[rows] = of_chunk
        for total, grad in zip(totals, grads, strict=True):
            total += grad
    summed = iter(total.to(p.dtype) for total, p in zip(totals, trained, strict=True))
    return hidden_grad, [next(summed) if p.requires_grad else None for p in parameters]


def _scores(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    # At temperature 1 the logits themselves: the op widens them as it reads.
    return logits if temperature == 1.0 else reference.tempered(logits, temperature)
