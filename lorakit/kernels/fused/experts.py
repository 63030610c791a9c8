"""The products of a layer's experts with a low-rank change beside them, and the way of its tokens
to the experts and back, each as one autograd function.

    y = W[e] x + scaling * B[e] A[e] x        for a row x that is sent to expert e

Rows are sorted by expert, so that each expert's products run over consecutive rows: nothing is
padded, and results are written where they belong. Kept for the backward pass: x and R columns. The
ways there and back are gathers in both directions: to scatter, which autograd would do backward, is
slow on a CPU and has no fixed order on a GPU.

S rows, E experts, O out_features, I in_features, R rank, T tokens, K experts per token (S = T * K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch
from lorakit.kernels.reference.autocast import without_autocast
from lorakit.kernels.reference.grouped_linear import PartlyDequantizable


@dataclass(frozen=True)
class Routing:
    """Which rows the tokens of a pass become.

    Attributes:
        order: int64 (S,), place of each row, sorted by expert, among the (T, K) choices.
        back: int64 (S,), the row of each choice.
        num_choices: K.
    """

    order: torch.Tensor
    back: torch.Tensor
    num_choices: int

    @classmethod
    def sorting(cls, expert_index: torch.Tensor) -> Routing:
        """Of the experts (T, K) that the tokens were given; rows of an expert keep their order."""
        order = torch.argsort(expert_index.reshape(-1), stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return cls(order, back, expert_index.shape[-1])

    @property
    def tokens(self) -> torch.Tensor:
        """int64 (S,), the token of each row."""
        return self.order // self.num_choices


def rows_per_expert(expert_index: torch.Tensor, num_experts: int) -> list[int]:
    """How many tokens each expert is given, of the experts (T, K) of all tokens.

    Where the tensor holds no data, what takes most memory: all tokens choose the same K.
    """
    if dispatch.is_rehearsal():
        num_tokens, num_choices = expert_index.shape
        return [num_tokens] * num_choices + [0] * (num_experts - num_choices)
    return torch.bincount(expert_index.reshape(-1), minlength=num_experts).tolist()


def send_to_experts(x: torch.Tensor, routing: Routing) -> torch.Tensor:
    """(T, D) -> (S, D): each row's token."""
    return _Send.apply(x, routing)


def collect_from_experts(
    rows: torch.Tensor, weights: torch.Tensor, routing: Routing
) -> torch.Tensor:
    """(S, D), (T, K) -> (T, D): the weighted sum over each token's experts, in their order.

    Args:
        rows, weights: of one dtype, in which the sum is made, under autocast too.
    """
    with without_autocast(rows):
        return _Collect.apply(rows, weights, routing)


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        ctx.routing = routing
        return x.index_select(0, routing.tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _by_token(grad, ctx.routing).sum(dim=1), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weights: torch.Tensor, routing: Routing
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.routing = routing
        return torch.bmm(weights[:, None], _by_token(rows, routing)).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (rows, weights), routing = ctx.saved_tensors, ctx.routing
        needs_rows, needs_weights, _ = ctx.needs_input_grad
        grad_rows = grad_weights = None
        if needs_weights:
            grad_weights = torch.bmm(_by_token(rows, routing), grad[:, :, None]).squeeze(2)
        if needs_rows:
            of_row = weights.reshape(-1).index_select(0, routing.order)
            grad_rows = grad.index_select(0, routing.tokens).mul_(of_row[:, None])
        return grad_rows, grad_weights, None


def _by_token(rows: torch.Tensor, routing: Routing) -> torch.Tensor:
    """(S, D) -> (T, K, D)"""
    gathered = rows.index_select(0, routing.back)
    return gathered.view(-1, routing.num_choices, rows.shape[-1])


def grouped_projection(
    x: torch.Tensor,
    weight: PartlyDequantizable,
    lora_A: torch.Tensor,
    lora_B: torch.Tensor,
    scaling: float,
    counts: Sequence[int],
    *,
    out_features: int,
    transposed: bool,
) -> torch.Tensor:
    """The adapted products of all experts, in the dtype of `x`. Autocast is ignored.

    Experts without rows are not dequantized, and their factors get a gradient of zeros.

    Args:
        x: (S, I), sorted by expert.
        weight: stored (E, O, I), or (E, I, O) when `transposed`; it receives no gradient.
        lora_A, lora_B: (E, R, I) and (E, O, R), in the dtype of `x`.
        counts: rows per expert.
        out_features: O.

    Returns:
        (S, O).
    """
    return _GroupedProjection.apply(
        x, lora_A, lora_B, weight, scaling, counts, out_features, transposed
    )


class _GroupedProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        lora_A: torch.Tensor,
        lora_B: torch.Tensor,
        weight: PartlyDequantizable,
        scaling: float,
        counts: Sequence[int],
        out_features: int,
        transposed: bool,
    ) -> torch.Tensor:
        ctx.weight, ctx.scaling, ctx.counts, ctx.transposed = weight, scaling, counts, transposed
        up = lora_B.transpose(1, 2).contiguous()  # (E, R, O): long rows, as products are fast with
        y, low = x.new_empty(len(x), out_features), x.new_empty(len(x), lora_A.shape[1])
        parts = [t.split(counts) for t in (x, y, low)]
        for expert, (x_e, y_e, low_e) in enumerate(zip(*parts, strict=True)):
            if len(x_e) == 0:
                continue
            dense = weight.dequantize_part(expert, x.dtype, x.device)
            torch.mm(x_e, dense if transposed else dense.t(), out=y_e)
            torch.mm(x_e, lora_A[expert].t(), out=low_e)
            y_e.addmm_(low_e.mul_(scaling), up[expert])
        ctx.save_for_backward(x, lora_A, up, low)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, lora_A, up, low = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        grad_x = torch.empty_like(x) if needs_x else None
        grad_A = torch.zeros_like(lora_A, memory_format=torch.contiguous_format)
        grad_up = torch.zeros_like(up)
        start = 0
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                continue
            rows = slice(start, start + count)
            start += count
            grad_e = grad[rows]
            grad_low = (grad_e @ up[expert].t()).mul_(ctx.scaling)
            torch.mm(low[rows].t(), grad_e, out=grad_up[expert])
            torch.mm(grad_low.t(), x[rows], out=grad_A[expert])
            if grad_x is not None:
                dense = ctx.weight.dequantize_part(expert, grad.dtype, grad.device)
                into = grad_x[rows]
                torch.mm(grad_e, dense.t() if ctx.transposed else dense, out=into)
                into.addmm_(grad_low, lora_A[expert])
        return grad_x, grad_A, grad_up.transpose(1, 2), None, None, None, None, None
