"""Modules that compute what transformers' do, with less kept for the backward pass and fewer passes
over it. Each holds the children of the one it stands in for, under their names.

B batch, T tokens, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorakit import kernels
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.hooks import is_watched
from lorakit.base.storages.dense import DenseWeight


class Stand(nn.Module):
    """What takes a module's place: its children under their names, and the module itself for what
    the fast path does not serve."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._parameters = original._parameters
        self._buffers = original._buffers
        self._modules = original._modules
        self.training = original.training
        # In a tuple, so that it is no child.
        self.original: tuple[Any] = (original,)

    def train(self, mode: bool = True) -> Stand:
        self.original[0].train(mode)
        self.training = mode
        return self


class FusedRMSNorm(Stand):
    """Llama's RMSNorm."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__(original)
        self.keep_output = kernels.may_keep_output(self.original[0].weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        (original,) = self.original
        weight = original.weight
        plainly = kernels.is_reference_forced() or weight.requires_grad
        if plainly or weight.dtype != hidden_states.dtype:
            return original(hidden_states)
        return kernels.frozen_rms_norm(
            hidden_states, weight, original.variance_epsilon, keep_output=self.keep_output
        )


class FusedGatedMLP(Stand):
    """Llama's MLP with the activation SiLU.

    Attributes:
        recompute: make the inner activations again in the backward pass (see `recompute.py`).
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__(original)
        self.recompute = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (original,) = self.original
        children = self._modules
        layers = _projections(x, children["gate_proj"], children["up_proj"], children["down_proj"])
        if layers is None:
            return original(x)
        return kernels.gated_mlp(x, *layers, recompute=self.recompute)


class FusedAttention(Stand):
    """Attention with separate query, key and value projections and Llama's rotary embedding.

    Args:
        original: the module.
        options: what it passes to the attention function beside the usual, such as its window.
    """

    def __init__(self, original: nn.Module, options: dict[str, Any]) -> None:
        super().__init__(original)
        self.options = options

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        (original,) = self.original
        children = self._modules
        layers = _projections(
            hidden_states, children["q_proj"], children["k_proj"], children["v_proj"]
        )
        if layers is None or position_embeddings is None or past_key_values is not None:
            return original(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        batch, tokens, _ = hidden_states.shape
        size = original.head_dim
        query, key, value = (
            y.view(batch * tokens, -1, size)
            for y in kernels.projections(hidden_states, layers, outputs_stay=True)
        )
        if "q_norm" in children:
            query, key = children["q_norm"](query), children["k_norm"](key)  # type: ignore[misc]
        cos, sin = (
            table.expand(batch, -1, -1).reshape(batch * tokens, -1) for table in position_embeddings
        )
        query, key = kernels.rotary(query, cos, sin), kernels.rotary(key, cos, sin)
        attend = ALL_ATTENTION_FUNCTIONS[original.config._attn_implementation]
        out, weights = attend(
            original,
            *(t.view(batch, tokens, -1, size).transpose(1, 2) for t in (query, key, value)),
            attention_mask,
            dropout=0.0,
            scaling=original.scaling,
            **self.options,
            **kwargs,
        )
        return children["o_proj"](out.reshape(batch, tokens, -1)), weights  # type: ignore[misc]


def _projections(
    x: torch.Tensor, *layers: nn.Module | None
) -> tuple[kernels.Projection, ...] | None:
    """What the fast path makes of linear layers; None when one of them is not for it."""
    if kernels.autocasts(x) or kernels.is_reference_forced():
        return None
    found = []
    for layer in layers:
        projection = _projection(layer, x.numel() // x.shape[-1])
        if projection is None:
            return None
        found.append(projection)
    return tuple(found)


def _projection(layer: nn.Module | None, num_rows: int) -> kernels.Projection | None:
    if layer is None or is_watched(layer):
        return None
    if isinstance(layer, AdaptedLinear):
        return layer.projection(num_rows)
    if isinstance(layer, FrozenLinear):
        return kernels.Projection(layer.stored, layer.bias)
    if type(layer) is nn.Linear and not layer.weight.requires_grad:
        return kernels.Projection(DenseWeight(layer.weight), layer.bias)
    return None
