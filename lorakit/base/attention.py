"""The attention that models are loaded with, under our name in transformers' official registries.

An unpacked call is transformers' own SDPA attention, except where that refuses (soft-capped scores,
attention sinks). A packed call, recognized by `cu_seq_lens_q`, attends inside each example.

B batch, H query heads, K key/value heads, T tokens, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lorakit import kernels
from lorakit.errors import ModelError

NAME = "lorakit"


def register() -> None:
    """Add our attention to transformers' registries; of no effect the second time."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    # The registry's signature: models pass further keywords that concern other implementations.
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """One attention layer, in the signature of transformers' `AttentionInterface`.

    Args:
        query: (B, H, T, D); key, value: (B, K, T', D).
        attention_mask: (B, 1, T, T') or None, as made by `sdpa_mask`.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        s_aux: (H,) attention sinks: one more logit per head that takes probability and gives
            nothing.
        cu_seq_lens_q: int32 (S + 1,) starts of the packed examples; None when not packed.

    Returns:
        (B, T, H, D) and None (attention weights are never kept).
    """
    if cu_seq_lens_q is not None and max_length_q is not None:
        if position_bias is not None:
            raise ModelError(
                f"{type(module).__name__} adds a position bias (ALiBi), which packed attention "
                "cannot; possible: one example per row. Set data.packing: false."
            )
        out = kernels.packed_attention(
            query[0],
            key[0],
            value[0],
            cu_seq_lens_q,
            max_length_q,
            scaling=scaling,
            causal=True,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks=s_aux,
        )
        return out.transpose(0, 1)[None].contiguous(), None
    if attention_mask is not None and attention_mask.numel() == 0:
        raise ModelError(
            f"{type(module).__name__} drops the packing arguments, so examples of one row would "
            "see each other; possible: one example per row. Set data.packing: false."
        )
    if softcap is not None or s_aux is not None:
        out = kernels.masked_attention(
            query, key, value, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux
        )
        return out.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=position_bias,
        **others,
    )
