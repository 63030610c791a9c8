"""The attention that models are loaded with, under our name in transformers' official registries.

An unpacked call is transformers' own SDPA attention, except where that refuses (soft-capped scores,
attention sinks). A packed call, recognized by `cu_seq_lens_q`, attends inside each example. A call
with `kv_slots` generates: it keeps its keys and values there, and continues those of earlier calls.

B batch, H query heads, K key/value heads, T tokens, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lorakit import kernels
from lorakit.base.kv_slots import KVSlots
from lorakit.data.examples import SharedPrompts
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
    example_lengths: Sequence[int] | None = None,
    shared_prompts: SharedPrompts | None = None,
    kv_slots: KVSlots | None = None,
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
        example_lengths: of the packed examples, from a caller that knows them on the host.
        shared_prompts: how the packed examples share tokens of the row; None: each has its own.
        kv_slots: where sequences that are being generated keep their keys and values; B is 1.

    Returns:
        (B, T, H, D) and None (attention weights are never kept).
    """
    packed = kv_slots is not None or (cu_seq_lens_q is not None and max_length_q is not None)
    if packed and position_bias is not None:
        raise ModelError(
            f"{type(module).__name__} adds a position bias (ALiBi), which packed attention "
            "cannot; possible: one example per row. Set data.packing: false."
        )
    if kv_slots is not None:
        out_THE = attend_over_slots(
            kv_slots,
            query[0],
            key[0],
            value[0],
            scaling=scaling,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks=s_aux,
        )
        return out_THE[None], None
    if cu_seq_lens_q is not None and max_length_q is not None:
        attend = functools.partial(
            kernels.packed_attention,
            cu_seqlens=cu_seq_lens_q,
            max_seqlen=max_length_q,
            lengths=example_lengths,
            scaling=scaling,
            causal=True,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks=s_aux,
        )
        if shared_prompts is not None:
            attend = functools.partial(_attend_spread, shared_prompts, attend)
        out = attend(query[0], key[0], value[0])
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


def _attend_spread(
    shared_prompts: SharedPrompts, attend: Callable[..., torch.Tensor], *row: torch.Tensor
) -> torch.Tensor:
    """(H, T, D): `attend` over whole examples, for a row in which they share prompts.

    Spread anew in the backward pass: of long prompts and short answers the whole examples are many
    times the row, by whose tokens the micro-batch was cut.
    """

    def attend_whole(*row: torch.Tensor) -> torch.Tensor:
        return shared_prompts.collect(attend(*map(shared_prompts.spread, row)))

    out = checkpoint(attend_whole, *row, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(out, torch.Tensor)
    return out


def attend_over_slots(
    kv_slots: KVSlots,
    query_HTD: torch.Tensor,
    key_KTD: torch.Tensor,
    value_KTE: torch.Tensor,
    *,
    scaling: float | None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    both_TKD: torch.Tensor | None = None,
) -> torch.Tensor:
    """Tokens that continue a slot see the slot, those of a prompt see the prompt.

    Args:
        both_TKD: see `KVSlots.store`.

    Returns:
        (T, H, E), contiguous.
    """
    options: dict[str, Any] = {"scaling": scaling, "softcap": softcap, "sinks": sinks}
    outputs = []
    for group in kv_slots.store(key_KTD, value_KTE, sliding_window, both_TKD=both_TKD):
        query_SHD = query_HTD[:, group.tokens].transpose(0, 1)
        outputs.append(
            kernels.decode_attention(query_SHD, group.keys, group.values, group.mask, **options)
        )
    if kv_slots.prompt_lengths:
        prompts = slice(kv_slots.num_decoding, None)
        out_HTE = kernels.packed_attention(
            query_HTD[:, prompts],
            key_KTD[:, prompts],
            value_KTE[:, prompts],
            kv_slots.cu_seqlens,
            max(kv_slots.prompt_lengths),
            causal=True,
            sliding_window=sliding_window,
            **options,
        )
        outputs.append(out_HTE.transpose(0, 1))
    return outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs)
