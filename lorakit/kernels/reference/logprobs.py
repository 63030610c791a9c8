"""Log-probability of a token under logits, and the entropy of what they say: the definitions.

C rows, V vocabulary, t temperature.

    logprob_i = z_i[token_i] / t - logsumexp(z_i / t),  entropy_i = -sum_v p_iv log p_iv,
    p_i = softmax(z_i / t)
"""

from __future__ import annotations

import torch


def logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """The natural logarithm of each token's probability, differentiable.

    Args:
        logits: (C, V).
        tokens: int64 (C,), values in [0, V).
        temperature: above 0.

    Returns:
        (C,), computed in float32 (float64 for float64 logits).
    """
    scores = torch.log_softmax(tempered(logits, temperature), dim=-1)
    return scores.gather(1, tokens[:, None]).squeeze(1)


def entropies(logits: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """The entropy of each row's distribution, in nats; a token that cannot be adds nothing.

    Args:
        logits: (C, V).
        temperature: above 0.

    Returns:
        (C,), computed in float32 (float64 for float64 logits).
    """
    return torch.special.entr(torch.softmax(tempered(logits, temperature), dim=-1)).sum(dim=-1)


def tempered(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits over the temperature; in float32 or wider, because halves would be rounded again."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1.0 else wide / temperature
