"""The next token of each sequence: from logits and one random number, by inverse CDF.

S sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit import kernels


def uniforms(seeds: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
    """The random number of each sequence's step: a pure function of (its seed, its step).

    Returns:
        float64 (S,) on the host, multiples of 2**-53 in [0, 1).
    """
    bits_S = kernels.mix_keys(torch.tensor(seeds), torch.tensor(steps))
    return ((bits_S >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def choose_tokens(
    logits_SV: torch.Tensor,
    uniforms_S: torch.Tensor | None,
    *,
    temperature: float,
    top_p: float,
    top_k: int | None,
) -> torch.Tensor:
    """One token for each row.

    Args:
        logits_SV: float32.
        uniforms_S: float64 in [0, 1); None exactly at temperature 0.
        temperature, top_p, top_k: as in `SamplingSettings`.

    Returns:
        int64 (S,).
    """
    if uniforms_S is None:
        return logits_SV.argmax(dim=-1)
    probabilities_SV = token_probabilities(
        logits_SV, temperature=temperature, top_p=top_p, top_k=top_k
    )
    # In the order of token ids, not of probabilities: the last bits of the logits depend on the
    # batch, and may swap tokens of equal probability, but hardly move a sum.
    cdf_SV = probabilities_SV.cumsum(dim=-1, dtype=torch.float64)
    total_S1 = cdf_SV[:, -1:]
    below_total = torch.nextafter(total_S1, torch.zeros_like(total_S1))
    target_S1 = torch.minimum(uniforms_S[:, None] * total_S1, below_total)
    # Beyond the last token only where logits are NaN: the caller sees it by the log-probability.
    return torch.searchsorted(cdf_SV, target_S1, right=True)[:, 0].clamp_max(cdf_SV.shape[-1] - 1)


def token_probabilities(
    logits_SV: torch.Tensor, *, temperature: float, top_p: float, top_k: int | None
) -> torch.Tensor:
    """What tokens are drawn from: temperature, then `top_k`, then `top_p` of what is left.

    Returns:
        float32 (S, V), 0 for tokens that are left out; not normalized where some are.
    """
    probabilities_SV = torch.softmax(logits_SV / temperature, dim=-1)
    count = logits_SV.shape[-1] if top_k is None else min(top_k, logits_SV.shape[-1])
    if top_p == 1.0 and count == logits_SV.shape[-1]:
        return probabilities_SV
    # Stable: of equally probable tokens, those with the lower ids.
    sorted_SV, ids_SV = torch.sort(probabilities_SV, dim=-1, descending=True, stable=True)
    sorted_SV, ids_SV = sorted_SV[:, :count], ids_SV[:, :count]
    if top_p < 1.0:
        reached_SV = sorted_SV.cumsum(dim=-1, dtype=torch.float64)
        before_SV = reached_SV - sorted_SV
        sorted_SV = sorted_SV.masked_fill(before_SV >= top_p * reached_SV[:, -1:], 0)
    return torch.zeros_like(probabilities_SV).scatter(1, ids_SV, sorted_SV)
