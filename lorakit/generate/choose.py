"""The next token of each sequence: from logits and one random number, by inverse CDF.

S sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit import kernels

# Without top_k, top_p looks at so many tokens first, because sorting a vocabulary takes longer than
# many a forward pass.
LIKELY_ENOUGH = 256


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
    min_p: float | None,
    tempered_logprobs: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token for each row.

    Args:
        logits_SV: float32.
        uniforms_S: float64 in [0, 1); None exactly at temperature 0.
        temperature, top_p, top_k, min_p, tempered_logprobs: as in `SamplingSettings`.

    Returns:
        int64 (S,), and float32 (S,) their log-probabilities, see `Completion`.
    """
    if uniforms_S is None:
        tokens_S = logits_SV.argmax(dim=-1)
        return tokens_S, _at(tokens_S, at_temperature(logits_SV, 1)).log()
    probabilities_SV = at_temperature(logits_SV, temperature)
    tokens_S = _draw(left_in(probabilities_SV, top_p, top_k, min_p), uniforms_S)
    if tempered_logprobs or temperature == 1:
        return tokens_S, _at(tokens_S, probabilities_SV).log()
    # At another temperature than it is drawn at, a probability may be too small for a number.
    return tokens_S, _at(tokens_S, torch.log_softmax(logits_SV, dim=-1))


def _at(tokens_S: torch.Tensor, values_SV: torch.Tensor) -> torch.Tensor:
    return values_SV.gather(1, tokens_S[:, None])[:, 0]


def _draw(probabilities_SV: torch.Tensor, uniforms_S: torch.Tensor) -> torch.Tensor:
    """One token for each row, int64 (S,), by probabilities that need not be normalized."""
    # In the order of token ids, not of probabilities: the last bits of the logits depend on the
    # batch, and may swap tokens of equal probability, but hardly move a sum.
    cdf_SV = probabilities_SV.cumsum(dim=-1, dtype=torch.float64)
    total_S1 = cdf_SV[:, -1:]
    below_total = torch.nextafter(total_S1, torch.zeros_like(total_S1))
    target_S1 = torch.minimum(uniforms_S[:, None] * total_S1, below_total)
    # Beyond the last token only where logits are NaN: the caller sees it by the log-probability.
    return torch.searchsorted(cdf_SV, target_S1, right=True)[:, 0].clamp_max(cdf_SV.shape[-1] - 1)


def at_temperature(logits_SV: torch.Tensor, temperature: float) -> torch.Tensor:
    """float32 (S, V), the probabilities of all tokens."""
    scaled_SV = logits_SV if temperature == 1 else logits_SV / temperature
    return torch.softmax(scaled_SV, dim=-1)


def left_in(
    probabilities_SV: torch.Tensor, top_p: float, top_k: int | None, min_p: float | None
) -> torch.Tensor:
    """What tokens are drawn from, by `top_k`, then `top_p` of what is left, and `min_p`.

    Returns:
        (S, V), 0 for tokens that are left out; not normalized where some are.
    """
    kept_SV = _kept(probabilities_SV, top_p, top_k)
    if min_p is not None:
        # Measured by the best token, which the others leave in: their order makes no difference.
        least_S1 = min_p * probabilities_SV.amax(dim=-1, keepdim=True)
        likely_SV = probabilities_SV >= least_S1
        kept_SV = likely_SV if kept_SV is None else kept_SV & likely_SV
    return probabilities_SV if kept_SV is None else probabilities_SV.masked_fill(~kept_SV, 0)


def _kept(probabilities_SV: torch.Tensor, top_p: float, top_k: int | None) -> torch.Tensor | None:
    """bool (S, V): what `top_k` and `top_p` leave; None: everything."""
    vocabulary = probabilities_SV.shape[-1]
    if top_p == 1.0 and (top_k is None or top_k >= vocabulary):
        return None
    count_S1, best_SN = _num_kept(probabilities_SV, top_p, top_k)
    # The least probability that is kept; of equal ones, those of the lower ids.
    least_S1 = best_SN.gather(1, count_S1 - 1)
    above_SV, equal_SV = probabilities_SV > least_S1, probabilities_SV == least_S1
    room_S1 = count_S1 - above_SV.sum(dim=-1, keepdim=True)
    # Counted in float32, exact up to 2**24: torch sums booleans up ten times slower.
    return above_SV | (equal_SV & (equal_SV.float().cumsum(dim=-1) <= room_S1))


def _num_kept(
    probabilities_SV: torch.Tensor, top_p: float, top_k: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tokens each row keeps, int64 (S, 1), and at least so many best probabilities."""
    vocabulary = probabilities_SV.shape[-1]
    num_best = min(LIKELY_ENOUGH if top_k is None else top_k, vocabulary)
    best_SN = probabilities_SV.topk(num_best, dim=-1).values
    if top_p == 1.0:
        return torch.full_like(best_SN[:, :1], num_best, dtype=torch.int64), best_SN
    reached_SN = best_SN.cumsum(dim=-1, dtype=torch.float64)
    total_S1 = reached_SN[:, -1:]
    if top_k is None:
        total_S1 = probabilities_SV.sum(dim=-1, keepdim=True, dtype=torch.float64)
        if num_best < vocabulary and bool((reached_SN[:, -1:] < top_p * total_S1).any()):
            return _num_kept(probabilities_SV, top_p, vocabulary)
    before_SN = reached_SN - best_SN
    return (before_SN < top_p * total_S1).sum(dim=-1, keepdim=True).clamp_min(1), best_SN
