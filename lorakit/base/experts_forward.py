"""The forward pass of experts, under our name in transformers' official registry.

It computes what transformers' functions compute, with projections that are modules of ours (frozen
or adapted) where the classes have plain parameters. Experts without one are left to transformers.

T tokens, K experts per token, S = T * K rows, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

from lorakit import kernels

NAME = "lorakit"
PLAIN = "grouped_mm"  # transformers' default


def use_in(model: PreTrainedModel) -> None:
    """Let a model's experts compute with `experts_forward`; of no effect the second time."""
    if model.config._experts_implementation == NAME:
        return  # the call below goes through all modules of the model
    ExpertsInterface.register(NAME, experts_forward)
    model.set_experts_implementation(NAME)


def use_in_llama4(experts: nn.Module) -> None:
    """The same for one module of a class that looks into no registry."""
    vars(experts)["forward"] = partial(llama4_forward, experts)


def restore_llama4(experts: nn.Module) -> None:
    """Undo `use_in_llama4`; of no effect where it was not called."""
    vars(experts).pop("forward", None)


def restore(model: PreTrainedModel) -> None:
    """Undo `use_in`, with what transformers chooses by itself."""
    if model.config._experts_implementation == NAME:
        # transformers has no public way to ask for the default of a class.
        model.set_experts_implementation(model.get_correct_experts_implementation(None))


def experts_forward(
    experts: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """All experts of a layer, in the signature of transformers' `ExpertsInterface`.

    Args:
        experts: an experts module of transformers.
        hidden_states: (T, D).
        top_k_index: (T, K), the experts of each token.
        top_k_weights: (T, K).

    Returns:
        (T, D): the weighted sum over each token's experts.
    """
    first = experts.gate_up_proj if experts.has_gate else experts.up_proj
    if isinstance(first, torch.Tensor) and isinstance(experts.down_proj, torch.Tensor):
        plain = ALL_EXPERTS_FUNCTIONS[PLAIN]
        return plain(experts, hidden_states, top_k_index, top_k_weights)
    routing = kernels.Routing.sorting(top_k_index)
    index = top_k_index.reshape(-1)
    counts = kernels.rows_per_expert(top_k_index, experts.num_experts)
    x = kernels.send_to_experts(hidden_states, routing)  # (S, D)
    x = _project(first, x, counts, experts.is_transposed)
    if experts.has_bias:
        bias = experts.gate_up_proj_bias if experts.has_gate else experts.up_proj_bias
        x = x + bias[index[routing.order]]
    x = experts._apply_gate(x) if experts.has_gate else experts.act_fn(x)
    x = _project(experts.down_proj, x, counts, experts.is_transposed)
    if experts.has_bias:
        x = x + experts.down_proj_bias[index[routing.order]]
    if experts.has_post_expert_norm:
        x = experts.post_expert_norm(x)
    # The router's weights may be wider than what they weigh.
    wide = torch.promote_types(x.dtype, top_k_weights.dtype)
    summed = kernels.collect_from_experts(x.to(wide), top_k_weights.to(wide), routing)
    return summed.to(hidden_states.dtype)


def llama4_forward(experts: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """All experts of a layer of Llama 4, where every expert sees every token, scaled by its score.

    Args:
        experts: an experts module of Llama 4.
        hidden_states: (E * T, D), expert by expert.

    Returns:
        (E * T, D).
    """
    counts = [hidden_states.shape[0] // experts.num_experts] * experts.num_experts
    gate, up = _project(experts.gate_up_proj, hidden_states, counts, True).chunk(2, dim=-1)
    return _project(experts.down_proj, up * experts.act_fn(gate), counts, True)


def _project(
    projection: Any, x: torch.Tensor, counts: Sequence[int], transposed: bool
) -> torch.Tensor:
    """(S, I) -> (S, O) with a module of ours, or with a parameter of transformers' layout."""
    if isinstance(projection, torch.Tensor):
        weight_EOI = projection.transpose(1, 2) if transposed else projection
        return kernels.grouped_linear(x, weight_EOI, counts)
    return projection(x, counts)
