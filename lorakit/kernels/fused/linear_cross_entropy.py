"""Cross-entropy of a language-model head, without ever holding all logits.

N trained positions, D hidden size, V vocabulary, C rows of one chunk.

    nll_i = logsumexp(z_i) - z_i[target_i],  z_i = logits_fn(hidden_i),  loss = sum_i w_i * nll_i

The gradient with respect to the logits is known in closed form, w_i * (softmax(z_i) - onehot_i), so
each chunk's gradients are made right after its logits, in the forward, and only those of the hidden
states and of the head's own trainable parameters are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch
from lorakit.kernels.fused.head_chunks import LogitsFn, accumulated, chunks, empty_rows


def linear_cross_entropy(
    hidden: torch.Tensor,
    logits_fn: LogitsFn,
    targets: torch.Tensor,
    target_weights: torch.Tensor,
    *,
    parameters: Sequence[torch.Tensor] = (),
    chunk_rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of the targets' negative log-likelihoods, and each of them.

    The log-sum-exp and all sums over rows are float32 (float64 for float64 logits). The result does
    not depend on `chunk_rows` but for the order of float sums in the parameters' gradients and for
    what the matrix product makes of another number of rows.

    Args:
        hidden: (N, D), what the head reads at the trained positions; N may be 0.
        logits_fn: (C, D) -> (C, V), row by row. Called once per chunk.
        targets: int64 (N,), values in [0, V).
        target_weights: (N,), the loss weight of each target.
        parameters: trainable tensors that `logits_fn` uses; they receive gradients too.
        chunk_rows: rows whose logits exist at the same time; None: what suits the device.

    Returns:
        loss: 0-d float32 (float64 for float64 hidden), `sum_i w_i * nll_i`.
        nll: (N,), same dtype, detached.
    """
    parameters = tuple(parameters)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (hidden, *parameters)):
        loss, nll = _LinearCrossEntropy.apply(
            hidden, logits_fn, targets, target_weights, chunk_rows, *parameters
        )
        return loss, nll
    with torch.no_grad():
        nll = empty_rows(hidden)
        for rows in chunks(hidden, chunk_rows):
            nll[rows], _ = dispatch.cross_entropy(
                logits_fn(hidden[rows]), targets[rows], needs_grad=False
            )
        return _weighted_sum(nll, target_weights), nll


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        logits_fn: LogitsFn,
        targets: torch.Tensor,
        target_weights: torch.Tensor,
        chunk_rows: int | None,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nll = empty_rows(hidden)
        hidden_grad = torch.zeros_like(hidden)
        trained = [p for p in parameters if p.requires_grad]
        parameter_grads = [accumulated(torch.zeros_like(p)) for p in trained]
        for rows in chunks(hidden, chunk_rows):
            with torch.enable_grad():
                chunk = hidden[rows].detach().requires_grad_()
                logits = logits_fn(chunk)
            # Row by row the gradient is linear: where only that of the rows is wanted, they are
            # weighted instead of the many more numbers of the logits.
            weights = target_weights[rows]
            nll[rows], logits_grad = dispatch.cross_entropy(
                logits.detach(), targets[rows], weights if trained else None
            )
            grads = torch.autograd.grad(logits, [chunk, *trained], logits_grad)
            hidden_grad[rows] = grads[0]
            if not trained:
                hidden_grad[rows] *= weights[:, None].to(hidden.dtype)
            for total, grad in zip(parameter_grads, grads[1:], strict=True):
                total += grad
        summed = iter(g.to(p.dtype) for g, p in zip(parameter_grads, trained, strict=True))
        ctx.grads = (hidden_grad, [next(summed) if p.requires_grad else None for p in parameters])
        ctx.mark_non_differentiable(nll)
        return _weighted_sum(nll, target_weights), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_grad: torch.Tensor, _: torch.Tensor):
        hidden_grad, parameter_grads = ctx.grads
        scaled = [None if g is None else g * loss_grad.to(g.dtype) for g in parameter_grads]
        return hidden_grad * loss_grad.to(hidden_grad.dtype), None, None, None, None, *scaled


def _weighted_sum(nll: torch.Tensor, target_weights: torch.Tensor) -> torch.Tensor:
    return (nll * target_weights.to(nll.dtype)).sum()
