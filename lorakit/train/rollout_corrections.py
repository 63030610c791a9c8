"""What was sampled in other numerics than those of training, weighted as if it had been in these.

A sampler adds floats in another order than a training pass, or computes in another dtype, so that
its log-probabilities are not quite those of the policy that trains. Truncated importance sampling
(https://fengyao.notion.site/off-policy-rl) and its masked and sequence-level forms, as in TRL 1.16,
where they are called `vllm_importance_sampling_mode`.

N tokens of S completions.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from lorakit.train.per_completion import Statistics, at_each, counted, sum_of_each

Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@torch.no_grad()
def rollout_corrections(
    old_logprobs: torch.Tensor,
    rollout_logprobs: torch.Tensor,
    lengths: torch.Tensor,
    *,
    mode: Correction | None,
    clip_max: float | None = None,
    clip_min: float | None = None,
) -> tuple[torch.Tensor | None, Statistics]:
    """How much more probable what was sampled is in the numerics of training: importance weights.

    The ratio of a token, or the product over a completion; outside of [clip_min, clip_max] it is
    cut off there (truncate) or the weight is 0 (mask). A NaN in `rollout_logprobs` (not known)
    corrects nothing.

    Args:
        old_logprobs: (N,), of the sampled tokens in a training pass, by the weights that sampled
            them.
        rollout_logprobs: (N,), of the same tokens as they were sampled, at the same temperature.
        lengths: int64 (S,).
        mode: see above; None: the mismatch is measured only.
        clip_min, clip_max: None: no bound.

    Returns:
        (N,), or None where nothing is corrected, and the statistics `sampling_logp_difference` and
        of a correction `importance_sampling_ratio`.
    """
    if mode not in (None, *get_args(Correction)):
        raise ValueError(f"correction {mode!r}; possible: {', '.join(get_args(Correction))}.")
    known = ~rollout_logprobs.isnan()
    difference = (old_logprobs - rollout_logprobs).nan_to_num(nan=0.0)
    # Of what is not known the difference is 0; it is left out of the count alone.
    entry = [difference.abs().sum(dtype=torch.float64), known.sum(dtype=torch.float64)]
    statistics = {"sampling_logp_difference": torch.stack(entry)}
    if mode is None:
        return None, statistics
    level, how = mode.split("_")
    ratio = (sum_of_each(difference, lengths) if level == "sequence" else difference).exp()
    if how == "truncate":
        if clip_min is not None or clip_max is not None:
            ratio = ratio.clamp(clip_min, clip_max)
    else:
        low = -math.inf if clip_min is None else clip_min
        high = math.inf if clip_max is None else clip_max
        ratio = ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
    statistics["importance_sampling_ratio"] = counted(ratio)
    return at_each(ratio, lengths) if level == "sequence" else ratio, statistics
