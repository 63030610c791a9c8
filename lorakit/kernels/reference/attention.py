"""Attention inside each packed example, of each sequence's last token over that sequence, and with
soft-capped scores or sinks.

H query heads, K key/value heads (H a multiple of K), T tokens of the whole pack, L tokens of one
example, S sequences, D head size, E value head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def packed_attention(
    query_HTD: torch.Tensor,
    key_KTD: torch.Tensor,
    value_KTE: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    *,
    lengths: Sequence[int] | None = None,
    scaling: float | None = None,
    causal: bool = True,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention where a token sees only tokens of its own example; never a (T, T) matrix.

    Args:
        query_HTD, key_KTD, value_KTE: all examples one after another.
        cu_seqlens: int32 (S + 1,), start of each example and the end of the last.
        max_seqlen: tokens of the longest example.
        lengths: of the examples; None: the device is asked for them, and waited for.
        scaling: of the scores; None: 1 / sqrt(D).
        causal: a token sees itself and those before it.
        sliding_window: of those, the last `sliding_window`; None: all.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        sinks: (H,) one more logit per head in the softmax, whose value is zero.

    Returns:
        (H, T, E).
    """
    lengths = cu_seqlens.diff().tolist() if lengths is None else list(lengths)
    window = None if sliding_window is None or sliding_window >= max_seqlen else sliding_window
    outputs = []
    # Split, not sliced: the backward of a slice fills a tensor of the whole with zeros.
    parts = zip(
        *(t[None].split(lengths, dim=2) for t in (query_HTD, key_KTD, value_KTE)), strict=True
    )
    for length, (q, k, v) in zip(lengths, parts, strict=True):
        if softcap is None and sinks is None:
            mask = None if window is None else visible(length, causal, window, q.device)
            out = nn.functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                scale=scaling,
                is_causal=causal and mask is None,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        else:
            mask = visible(length, causal, window, q.device)[None, None]
            out = masked_attention(q, k, v, mask, scaling=scaling, softcap=softcap, sinks=sinks)
        outputs.append(out[0].transpose(0, 1))
    # Token by token, as the output projection reads it.
    return torch.cat(outputs).transpose(0, 1)


def decode_attention(
    query_SHD: torch.Tensor,
    key_SKLD: torch.Tensor,
    value_SKLE: torch.Tensor,
    mask_SL: torch.Tensor,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the last token of each sequence over that sequence; for generation only.

    Args:
        query_SHD: of each sequence's last token.
        key_SKLD, value_SKLE: of the whole sequences, the last token's included; finite also where
            the mask hides them.
        mask_SL: added to the scores, in their dtype: 0 where a key is seen, -inf where it is not
            (beyond a sequence's length, before its window). One key at least is seen.
        scaling, softcap, sinks: as in `packed_attention`.

    Returns:
        (S, H, E).
    """
    num_sequences, num_heads, _ = query_SHD.shape
    num_kv_heads = key_SKLD.shape[1]
    mask = mask_SL[:, None, None]
    if softcap is None and sinks is None:
        # The query heads that share a key head as queries of that head: keys are not repeated.
        query = query_SHD.reshape(num_sequences, num_kv_heads, num_heads // num_kv_heads, -1)
        out = nn.functional.scaled_dot_product_attention(
            query, key_SKLD, value_SKLE, attn_mask=mask, scale=scaling
        )
    else:
        query = query_SHD[:, :, None]
        out = masked_attention(
            query, key_SKLD, value_SKLE, mask, scaling=scaling, softcap=softcap, sinks=sinks
        )
    return out.reshape(num_sequences, num_heads, -1)


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention written out, for scores that `scaled_dot_product_attention` cannot compute.

    Args:
        query: (B, H, L, D); key: (B, K, M, D); value: (B, K, M, E), M >= L keys.
        mask: boolean (B or 1, 1, L, M), True where a query sees a key, or additive in the scores'
            dtype; None: causal, the queries being the last L positions.
        scaling, softcap, sinks: as in `packed_attention`.

    Returns:
        (B, H, L, E). The softmax is float32.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        num_queries, num_keys = scores.shape[-2:]
        offset = num_keys - num_queries
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(offset)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    return weights.to(value.dtype) @ value


def visible(length: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor:
    """Boolean (L, L), True where a query sees a key of the same example."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]  # query - key
    seen = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        seen &= distance >= 0
    if window is not None:
        seen &= distance.abs() < window
    return seen
