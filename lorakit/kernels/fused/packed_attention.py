"""Attention inside each packed example: the fastest form that serves a call, else the reference's.

On a CPU one call per example inside one autograd function. Kept for the backward pass: queries,
keys and values as they come, the output once, as the next layer reads it, and one number per query.
Autograd would keep each example's output beside the one they are put together in.

On a GPU PyTorch's attention over ragged rows: one call, and the host need not know the lengths.

H query heads, K key/value heads (H a multiple of K), T tokens of the whole pack, L tokens of one
example, D head size.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lorakit.kernels import dispatch
from lorakit.kernels.reference import attention as reference

log = logging.getLogger(__name__)

_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
_BACKWARD = "_scaled_dot_product_flash_attention_for_cpu_backward"
_HALF = (torch.bfloat16, torch.float16)


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
    """See `reference/attention.py`."""
    tensors = query_HTD, key_KTD, value_KTE
    window = None if sliding_window is None or sliding_window >= max_seqlen else sliding_window
    plain = causal and softcap is None and sinks is None and not dispatch.is_reference_forced()
    if plain and _serves_on_cpu(*tensors):
        known = cu_seqlens.diff().tolist() if lengths is None else list(lengths)
        return _CausalAttention.apply(*tensors, known, scaling, window)
    if query_HTD.device.type == "cuda" and not dispatch.is_reference_forced():
        reason = _why_not_ragged(*tensors, plain=plain)
        if reason is None:
            return _ragged(*tensors, cu_seqlens, max_seqlen, scaling, window)
        _tell_of_plain_attention(reason)
    return reference.packed_attention(
        *tensors,
        cu_seqlens,
        max_seqlen,
        lengths=lengths,
        scaling=scaling,
        causal=causal,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=sinks,
    )


def _serves_on_cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the two ops that `scaled_dot_product_attention` calls on a CPU are for these tensors,
    and there. A rehearsal takes them for a GPU's too: what is kept is the same."""
    return (
        (query.device.type == "cpu" or dispatch.is_rehearsal())
        and query.dtype == key.dtype == value.dtype
        and query.dtype in (torch.float32, *_HALF)
        and query.shape[-1] == value.shape[-1]
        and all(t.stride(-1) == 1 for t in (query, key, value))
        and _has_cpu_ops()
    )


@cache
def _has_cpu_ops() -> bool:
    # Both are PyTorch's private names, which a version may take away.
    missing = [name for name in (_FORWARD, _BACKWARD) if not hasattr(torch.ops.aten, name)]
    if missing:
        log.warning(
            "PyTorch %s has no %s, so attention on the CPU runs as plain PyTorch and keeps more "
            "for the backward pass; PyTorch 2.11 to 2.13 have it",
            torch.__version__,
            " and no ".join(missing),
        )
    return not missing


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: list[int],
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        attend = getattr(torch.ops.aten, _FORWARD)
        heads, num_tokens, size = query.shape
        out_THD = query.new_empty(num_tokens, heads, size)
        log_sums = []
        for q, k, v, out in _examples(lengths, query, key, value, out_THD.transpose(0, 1)):
            found, log_sum = attend(q, k, v, scale=scaling, **_sight(q, window))
            out.copy_(found)
            log_sums.append(log_sum)
        out_HTD = out_THD.transpose(0, 1)
        ctx.lengths, ctx.scaling, ctx.window = lengths, scaling, window
        ctx.save_for_backward(query, key, value, out_HTD, *log_sums)
        return out_HTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        attend_backward = getattr(torch.ops.aten, _BACKWARD)
        query, key, value, out, *log_sums = ctx.saved_tensors
        grads = [_like_tokens(t) for t in (query, key, value)]
        whole = (grad, query, key, value, out, *grads)
        parts = zip(_examples(ctx.lengths, *whole), log_sums, strict=True)
        for (dy, q, k, v, y, *of_inputs), log_sum in parts:
            sight = _sight(q, ctx.window)
            found = attend_backward(dy, q, k, v, y, log_sum, 0.0, scale=ctx.scaling, **sight)
            for place, part in zip(of_inputs, found, strict=True):
                place.copy_(part)
        return *grads, None, None, None


def _sight(query: torch.Tensor, window: int | None) -> dict[str, Any]:
    """What the queries (1, H, L, D) of one example see, in the two ops' words."""
    length = query.shape[2]
    if window is None or window >= length:
        return {"is_causal": True}
    seen = reference.visible(length, True, window, query.device)
    hidden = query.new_zeros(length, length).masked_fill_(~seen, -torch.inf)
    return {"is_causal": False, "attn_mask": hidden}


def _examples(lengths: list[int], *tensors: torch.Tensor) -> Any:
    """Of each example its part of all tensors (heads, T, D), as views (1, heads, L, D)."""
    return zip(*(tensor[None].split(lengths, dim=2) for tensor in tensors), strict=True)


def _like_tokens(tensor_HTD: torch.Tensor) -> torch.Tensor:
    """Empty, of the same shape, and contiguous token by token."""
    heads, num_tokens, size = tensor_HTD.shape
    return tensor_HTD.new_empty(num_tokens, heads, size).transpose(0, 1)


@cache
def _why_no_varlen() -> str | None:
    """What PyTorch's attention over ragged rows lacks."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        missing = ["varlen_attn"]
    else:
        known = inspect.signature(varlen_attn).parameters
        missing = [name for name in ("scale", "window_size", "enable_gqa") if name not in known]
    if not missing:
        return None
    return (
        f"torch.nn.attention.varlen of PyTorch {torch.__version__} has no "
        f"{' and no '.join(missing)}; PyTorch 2.13 has it"
    )


def _why_not_ragged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, plain: bool
) -> str | None:
    """What a call on a GPU has that attention over ragged rows does not serve."""
    if not plain:
        return "it is not causal, or has soft-capped scores or sinks"
    if not query.dtype == key.dtype == value.dtype or query.dtype not in _HALF:
        return f"its dtype is {query.dtype}, not bfloat16 or float16"
    if query.shape[-1] != value.shape[-1]:
        return "its heads have values of another size than keys"
    return _why_no_varlen()


@cache
def _tell_of_plain_attention(reason: str) -> None:
    log.warning(
        "attention on the GPU runs as plain PyTorch, example by example, and waits for their "
        "lengths: %s",
        reason,
    )


def _ragged(
    query_HTD: torch.Tensor,
    key_KTD: torch.Tensor,
    value_KTD: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention import varlen  # `_why_no_varlen` has seen that it is there

    attend: Any = varlen.varlen_attn  # whose types differ from version to version
    out_THD = attend(
        *(t.transpose(0, 1) for t in (query_HTD, key_KTD, value_KTD)),
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        scale=scaling,
        # Of the keys before a query so many, and none after it; -1: all.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=len(query_HTD) != len(key_KTD),
    )
    return out_THD.transpose(0, 1)
