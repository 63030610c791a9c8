"""The MLP of Llama and its kin, `down(silu(gate(x)) * up(x))`, as one autograd function.

Kept for the backward pass: x and the outputs of gate and up, or of these only x. The hidden
activation, as wide as those, is made again from them.

T tokens, I hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch
from lorakit.kernels.fused.projections import Kept, Projection, project, project_backward


def gated_mlp(
    x: torch.Tensor,
    gate: Projection,
    up: Projection,
    down: Projection,
    *,
    recompute: bool = False,
) -> torch.Tensor:
    """(..., I) -> (..., I), in the dtype of `x`. Autocast is ignored.

    Args:
        recompute: the outputs of gate and up are made again in the backward pass: of what the
            function keeps, most, for two products more.
    """
    flat = x.reshape(-1, x.shape[-1])
    tensors = [tensor for layer in (gate, up, down) for tensor in layer.tensors()]
    return _GatedMLP.apply(flat, gate, up, down, recompute, *tensors).view(x.shape)


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gate: Projection,
        up: Projection,
        down: Projection,
        recompute: bool,
        *_: torch.Tensor | None,
    ) -> torch.Tensor:
        (gated, raised), kept = project(x, [gate, up], outputs_stay=True)
        hidden = dispatch.silu_mul(gated, raised)
        (y,), kept_down = project(hidden, [down], outputs_stay=False)
        saved = kept_down if recompute else [*kept_down, *kept]
        ctx.layers, ctx.recompute = (gate, up, down), recompute
        ctx.save_for_backward(
            x,
            *([] if recompute else (gated, raised)),
            *(tensor for one in saved for tensor in one.tensors()),
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up, down = ctx.layers
        x, *saved = ctx.saved_tensors
        if ctx.recompute:
            (gated, raised), kept = project(x, [gate, up], outputs_stay=True)
            (kept_down,) = Kept.each_of(saved)
        else:
            gated, raised, *saved = saved
            kept_down, *kept = Kept.each_of(saved)
        hidden = dispatch.silu_mul(gated, raised)
        grad_hidden, of_down = project_backward(hidden, [down], [kept_down], [grad], needs_x=True)
        assert grad_hidden is not None
        del hidden
        grads = dispatch.silu_mul_backward(gated, raised, grad_hidden)
        grad_x, of_inputs = project_backward(
            x, [gate, up], kept, grads, needs_x=ctx.needs_input_grad[0]
        )
        return grad_x, None, None, None, None, *of_inputs, *of_down
