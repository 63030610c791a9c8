"""Frozen linear layers that read the same input, each with a low-rank change beside it.

    y = g * (W x + B down) + b,    down = scaling * A x',    g = m / n (DoRA) or 1

x' is x after dropout. Kept for the backward pass: x, once for all layers, `down` (R columns), and
with DoRA the output, because the magnitude's gradient is the sum over tokens of dy * y / m. Neither
the dense weight nor any product of full width is kept beside that: a weight is dequantized once
forward, where DoRA's norms come from it too, and once backward.

T tokens, I in_features, O out_features, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch, scratch
from lorakit.kernels.reference.frozen_linear import Dequantizable


@dataclass(frozen=True)
class Dropped:
    """Dropout of one layer's low-rank input.

    Attributes:
        row_keys: int64 (T,), the module's own.
        p: probability to drop.
    """

    row_keys: torch.Tensor
    p: float


@dataclass(frozen=True)
class RowScale:
    """What DoRA multiplies the rows of the sum with, float32 or wider, taken as constants.

    Attributes:
        norm: (O,), n.
        factor: (O,), g = m / n, never 0.
    """

    norm: torch.Tensor
    factor: torch.Tensor


@dataclass(frozen=True)
class Projection:
    """One frozen linear layer and what is added to it.

    Attributes:
        weight: stored (O, I).
        bias: (O,), may train.
        lora_A, lora_B: (R, I) and (O, R), trained; None: nothing is added.
        scaling: of the low-rank product.
        row_scale: DoRA's, asked for with the dense weight (O, I) that the forward pass has in hand,
            in the dtype of its input; None: 1.
        magnitude: (O,), DoRA's m, trained.
        dropout: of the low-rank input.
    """

    weight: Dequantizable
    bias: torch.Tensor | None = None
    lora_A: torch.Tensor | None = None
    lora_B: torch.Tensor | None = None
    scaling: float = 1.0
    row_scale: Callable[[torch.Tensor], RowScale] | None = None
    magnitude: torch.Tensor | None = None
    dropout: Dropped | None = None

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What may train; gradients come in this order."""
        return self.bias, self.lora_A, self.lora_B, self.magnitude


NUM_TENSORS = 4


@dataclass(frozen=True)
class Kept:
    """What a projection leaves for its backward pass: `down` (T, R), and of DoRA the output before
    the bias (T, O), the norm and the factor of each row (O,)."""

    down: torch.Tensor | None
    product: torch.Tensor | None
    norm: torch.Tensor | None
    factor: torch.Tensor | None

    @property
    def scale(self) -> RowScale | None:
        """DoRA's."""
        if self.norm is None or self.factor is None:
            return None
        return RowScale(self.norm, self.factor)

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """For autograd to save."""
        return self.down, self.product, self.norm, self.factor

    @classmethod
    def each_of(cls, saved: Sequence[torch.Tensor | None]) -> list[Kept]:
        """What autograd saved of several layers, one after another."""
        return [cls(*saved[i : i + NUM_KEPT]) for i in range(0, len(saved), NUM_KEPT)]


NUM_KEPT = 4


def projections(
    x: torch.Tensor, layers: Sequence[Projection], *, outputs_stay: bool = False
) -> tuple[torch.Tensor, ...]:
    """The outputs (..., O) of layers that read `x` (..., I), in its dtype. Autocast is ignored.

    Args:
        outputs_stay: nobody writes into the outputs, so that the backward pass may read them.
    """
    flat = x.reshape(-1, x.shape[-1])
    tensors = [tensor for layer in layers for tensor in layer.tensors()]
    outputs = _Projections.apply(flat, tuple(layers), outputs_stay, *tensors)
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layers: tuple[Projection, ...],
        outputs_stay: bool,
        *_: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        outputs, kept = project(x, layers, outputs_stay=outputs_stay)
        ctx.layers = layers
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *(tensor for one in kept for tensor in one.tensors()))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        grad_x, of_tensors = project_backward(
            x, ctx.layers, Kept.each_of(saved), grads, needs_x=ctx.needs_input_grad[0]
        )
        return grad_x, None, None, *of_tensors


def project(
    x: torch.Tensor, layers: Sequence[Projection], *, outputs_stay: bool
) -> tuple[list[torch.Tensor], list[Kept]]:
    """Outputs (T, O) for `x` (T, I), and what the backward pass needs of each. No autograd."""
    downs = _downs(x, layers)
    outputs, kept = [], []
    for layer, down in zip(layers, downs, strict=True):
        dense = _dense(layer, x)
        scale = None if layer.row_scale is None else layer.row_scale(dense)
        of_weight, of_output = _places(scale, x)
        dense = _scale_rows(dense, of_weight)
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        y = x @ dense.T if bias is None or scale is not None else torch.addmm(bias, x, dense.T)
        del dense
        if down is not None and layer.lora_B is not None:
            y.addmm_(down, _scale_rows(layer.lora_B.to(x.dtype), of_weight).T)
        if of_output is not None:
            y = _scale_columns(y, of_output)
        product = None if scale is None else y
        if product is not None and bias is not None:
            y = product + bias
        elif product is not None and not outputs_stay:
            product = y.clone()
        outputs.append(y)
        norm, factor = (None, None) if scale is None else (scale.norm, scale.factor)
        kept.append(Kept(down, product, norm, factor))
    return outputs, kept


def project_backward(
    x: torch.Tensor,
    layers: Sequence[Projection],
    kept: Sequence[Kept],
    grads: Sequence[torch.Tensor | None],
    *,
    needs_x: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """Gradients of `x` (None when not needed) and of every layer's `tensors()`, one after another.

    Args:
        grads: (T, O) of each output; None: the output was not used.
    """
    grad_x: torch.Tensor | None = None
    of_tensors: list[torch.Tensor | None] = []
    grad_downs: list[torch.Tensor | None] = []
    for layer, one, grad in zip(layers, kept, grads, strict=True):
        if grad is None:
            of_tensors += [None] * NUM_TENSORS
            grad_downs.append(None)
            continue
        scale = one.scale
        grad_bias = grad_B = grad_magnitude = None
        if layer.bias is not None and layer.bias.requires_grad:
            # Half-precision sums over tokens lose the small terms.
            wide = torch.promote_types(grad.dtype, torch.float32)
            grad_bias = grad.sum(0, dtype=wide).to(layer.bias.dtype)
        if layer.magnitude is not None:
            assert one.product is not None and scale is not None
            dots = dispatch.column_dots(grad, one.product)
            grad_magnitude = (dots / (scale.factor * scale.norm)).to(layer.magnitude.dtype)
        of_weight, of_output = _places(scale, x)
        if of_output is not None:
            grad = _scale_columns(grad.clone(), of_output)
        grad_down = None
        if layer.lora_B is not None and one.down is not None:
            up = _scale_rows(layer.lora_B.to(x.dtype), of_weight)
            grad_down = (grad @ up).mul_(layer.scaling)
            grad_B = (grad.T @ one.down).to(layer.lora_B.dtype)
            if of_weight is not None:
                grad_B *= of_weight[:, None].to(grad_B.dtype)
        if needs_x:
            dense = _scale_rows(_dense(layer, x), of_weight)
            grad_x = grad @ dense if grad_x is None else grad_x.addmm_(grad, dense)
            del dense
        grad_downs.append(grad_down)
        of_tensors += [grad_bias, None, grad_B, grad_magnitude]
    for place, grad_A in _low_rank_grads(x, layers, grad_downs, grad_x):
        of_tensors[place * NUM_TENSORS + 1] = grad_A
    return grad_x, of_tensors


def _dense(layer: Projection, x: torch.Tensor) -> torch.Tensor:
    """The dense weight (O, I), until the next one is asked for."""
    with scratch.short_lived():
        return layer.weight.dequantize(x.dtype, x.device)


def _downs(x: torch.Tensor, layers: Sequence[Projection]) -> list[torch.Tensor | None]:
    """`scaling * A x'` (T, R) of each layer; in one product where the input is the same."""
    downs: list[torch.Tensor | None] = [None] * len(layers)
    together = [
        (place, layer.lora_A)
        for place, layer in enumerate(layers)
        if layer.lora_A is not None and layer.dropout is None
    ]
    if together:
        stacked = torch.cat([a for _, a in together]).to(x.dtype)
        parts = (x @ stacked.T).split([len(a) for _, a in together], dim=1)
        for (place, _), part in zip(together, parts, strict=True):
            downs[place] = part * layers[place].scaling
    for place, layer in enumerate(layers):
        if layer.lora_A is not None and layer.dropout is not None:
            dropped = dispatch.keyed_dropout(x, layer.dropout.row_keys, layer.dropout.p)
            downs[place] = (dropped @ layer.lora_A.to(x.dtype).T).mul_(layer.scaling)
    return downs


def _low_rank_grads(
    x: torch.Tensor,
    layers: Sequence[Projection],
    grad_downs: Sequence[torch.Tensor | None],
    grad_x: torch.Tensor | None,
) -> list[tuple[int, torch.Tensor]]:
    """(place of the layer, gradient of its A); adds the low-rank paths' part to `grad_x`."""
    found = []
    together = []
    for place, (layer, grad_down) in enumerate(zip(layers, grad_downs, strict=True)):
        if grad_down is None:
            continue
        assert layer.lora_A is not None
        if layer.dropout is None:
            together.append((place, layer.lora_A, grad_down))
            continue
        keys, p = layer.dropout.row_keys, layer.dropout.p
        dropped = dispatch.keyed_dropout(x, keys, p)
        found.append((place, (grad_down.T @ dropped).to(layer.lora_A.dtype)))
        if grad_x is not None:
            through = grad_down @ layer.lora_A.to(x.dtype)
            grad_x.add_(dispatch.keyed_dropout(through, keys, p))
    if together:
        stacked = torch.cat([grad for _, _, grad in together], dim=1)
        parts = (stacked.T @ x).split([len(a) for _, a, _ in together])
        found += [
            (place, part.to(a.dtype)) for (place, a, _), part in zip(together, parts, strict=True)
        ]
        if grad_x is not None:
            grad_x.addmm_(stacked, torch.cat([a for _, a, _ in together]).to(x.dtype))
    return found


def _places(
    scale: RowScale | None, x: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """DoRA's factor as one of the weights' rows or as one of the output's columns, the other None.

    It goes into the weights when those have fewer numbers than the output, which then needs no pass
    of its own.
    """
    if scale is None:
        return None, None
    return (scale.factor, None) if len(x) > x.shape[1] else (None, scale.factor)


def _scale_rows(weight: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    """`weight` (O, ...) times one factor per row, in its dtype."""
    # Rounded once, after scaling: a magnitude that moves by less than the dtype's step still
    # changes some of its row's weights.
    if factor is None:
        return weight
    if scratch.is_scratch(weight) and weight.dtype == factor.dtype:
        return weight.mul_(factor[:, None])
    return (weight * factor[:, None]).to(weight.dtype)


def _scale_columns(y: torch.Tensor, row_scale: torch.Tensor) -> torch.Tensor:
    """`y` (T, O) times one factor per column, in place. Of a factor near 1, the distance from 1 is
    rounded to the dtype of `y`, not the factor itself."""
    if y.dtype == row_scale.dtype:
        return y.mul_(row_scale)
    return y.addcmul_(y, (row_scale - 1).to(y.dtype))
