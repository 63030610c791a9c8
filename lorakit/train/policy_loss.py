"""The clipped objective of a policy gradient: GRPO and its relatives.

N tokens of S completions, one completion after the other; t a token of completion s.

    ratio_t = exp(logprob_t - old_logprob_t)      of gspo: exp(mean over s of the difference)
    loss_t  = -min(min(ratio_t, delta) A_s, clip(ratio_t, 1 - epsilon, 1 + epsilon_high) A_s)
    cispo:    -min(ratio_t, epsilon_high) A_s logprob_t, nothing flowing through the ratio
    loss    = sum over s and t of (loss_t * w_t + beta KL_t) / divisor

| loss_type | summed | divisor | paper (arXiv) |
|---|---|---|---|
| grpo | over completions, of each one's mean | completions of the step | 2402.03300 |
| gspo | as grpo | as grpo | 2507.18071 |
| bnpo | over tokens | tokens of the step | - |
| dr_grpo | over tokens | completions of the step * max_completion_length | 2503.20783 |
| dapo, cispo | over tokens | tokens of the cycle / its steps | 2503.14476, 2506.13585 |

All of it means what it means in TRL 1.16 but for one law: there is one divisor for an optimizer
step, however it is cut into micro-batches. TRL's bnpo takes the mean of its micro-batches' means,
so its gradient depends on the cut; without accumulation the two are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from lorakit.errors import InputError
from lorakit.train.per_completion import Statistics, at_each, counted, mean_of_each

LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo"]
Level = Literal["token", "sequence"]
# Of the statistics: what a completion without an advantage has a part in, which is never clipped.
CLIP_SHARES = ("clip_ratio/low", "clip_ratio/high", "clip_ratio/region", "cispo_clip_ratio")


@dataclass(frozen=True)
class PolicyLossSettings:
    """Names, defaults and meanings of TRL's GRPOConfig.

    Attributes:
        loss_type: see above.
        importance_sampling_level: of the ratio; "gspo" is grpo at the level "sequence".
        epsilon, epsilon_high: how far a ratio may go below and above 1; None: as epsilon. Of cispo
            epsilon_high is the largest ratio itself (the paper: 5.0).
        delta: the largest ratio of a token with a negative advantage; None: none.
        beta: of the KL divergence from the base.
        use_bias_correction_kl: whether the divergence is weighted by the ratio (arXiv 2512.02556).
        max_completion_length: in tokens, what dr_grpo divides by.

    Raises:
        InputError: a value that cannot work; all of them are named.
    """

    loss_type: LossType = "dapo"
    importance_sampling_level: Level | None = None
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    max_completion_length: int = 256

    def __post_init__(self) -> None:
        faults = []
        if self.loss_type not in get_args(LossType):
            faults.append(
                f"loss_type {self.loss_type!r} (possible: {', '.join(get_args(LossType))})"
            )
        if self.importance_sampling_level not in (None, *get_args(Level)):
            faults.append(
                f"importance_sampling_level {self.importance_sampling_level!r} (possible: token, "
                "sequence)"
            )
        if self.loss_type == "gspo" and self.importance_sampling_level == "token":
            faults.append(
                "importance_sampling_level 'token' with loss_type gspo (possible: sequence, which "
                "is what gspo means; or loss_type grpo)"
            )
        for name in ("epsilon", "epsilon_high", "delta", "beta"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                faults.append(f"{name} {value!r} (possible: 0 or more, finite)")
        if self.loss_type == "cispo":
            if self.epsilon_high is None:
                faults.append("no epsilon_high with loss_type cispo (the paper's: 5.0)")
            if self.delta is not None:
                faults.append(
                    "delta with loss_type cispo, which has no such bound (possible: none)"
                )
        elif self.delta is not None and self.delta <= 1 + self.highest:
            faults.append(
                f"delta {self.delta!r} (possible: above 1 + epsilon_high, {1 + self.highest:g}, "
                "or it is nothing but a smaller epsilon_high)"
            )
        if self.max_completion_length < 1:
            faults.append(f"max_completion_length {self.max_completion_length!r} (possible: 1 on)")
        if faults:
            raise InputError(f"policy loss: {'; '.join(faults)}. Change these values.")

    @property
    def level(self) -> Level:
        """Of the ratio."""
        return "sequence" if self.loss_type == "gspo" else self.importance_sampling_level or "token"

    @property
    def highest(self) -> float:
        """`epsilon_high` where it is given."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


@dataclass(frozen=True)
class Counts:
    """Of one optimizer step over all its micro-batches and ranks.

    Attributes:
        completions: all of them, those that are masked or have no advantage included.
        tokens: of those that are not masked.
        tokens_generated: likewise, of all completions that the steps of the cycle see.
        steps_of_cycle: optimizer steps that those are shared out to in one pass over them.
    """

    completions: int
    tokens: int
    tokens_generated: int
    steps_of_cycle: int


@dataclass(frozen=True)
class PolicyTokens:
    """What is known of the tokens of a micro-batch; float32 (float64 where `logprobs` are).

    A completion that is masked because it is truncated is not among them: it teaches nothing, and
    `Counts` say what part it has in the divisor.

    Attributes:
        logprobs: (N,), log-probabilities of the policy, with gradients.
        lengths: int64 (S,), tokens of each completion, 1 or more; they add up to N.
        advantages: (S,).
        old_logprobs: (N,), of the policy that the ratio is taken against; None: of this one as it
            is.
        ref_logprobs: (N,), of the base; needed where beta is not 0.
        corrections: (N,), of `rollout_corrections`; None: none.
        entropies: (N,), for the statistics; None: not known.
    """

    logprobs: torch.Tensor
    lengths: torch.Tensor
    advantages: torch.Tensor
    old_logprobs: torch.Tensor | None = None
    ref_logprobs: torch.Tensor | None = None
    corrections: torch.Tensor | None = None
    entropies: torch.Tensor | None = None


def divisor(settings: PolicyLossSettings, counts: Counts) -> float:
    """What the sum of a step's losses is divided by: one number for all of its micro-batches."""
    if settings.loss_type in ("grpo", "gspo"):
        return float(counts.completions)
    if settings.loss_type == "dr_grpo":
        return float(counts.completions * settings.max_completion_length)
    if settings.loss_type == "bnpo":
        return float(max(counts.tokens, 1))
    return max(counts.tokens_generated, 1) / counts.steps_of_cycle


def policy_loss(
    tokens: PolicyTokens, settings: PolicyLossSettings
) -> tuple[torch.Tensor, Statistics]:
    """The sum of the losses of a micro-batch, to be divided by the step's `divisor`.

    Returns:
        loss: 0-d, the dtype of `tokens.logprobs`; its gradient flows into these alone.
        statistics: to be added up over micro-batches; over tokens `entropy` and `kl`; over tokens,
            or completions where the level is sequence, `ratio`, `clip_ratio/low`,
            `clip_ratio/high`, `clip_ratio/region`, of cispo `cispo_clip_ratio` instead.
    """
    lengths, logprobs = tokens.lengths, tokens.logprobs
    old_logprobs = logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
    log_ratio = logprobs - old_logprobs
    if settings.level == "sequence":
        log_ratio = at_each(mean_of_each(log_ratio, lengths), lengths)
    ratio = log_ratio.exp()
    advantages = at_each(tokens.advantages.to(logprobs.dtype), lengths)
    if settings.loss_type == "cispo":
        losses = -ratio.clamp(max=settings.highest).detach() * advantages * logprobs
    else:
        clipped = ratio.clamp(1 - settings.epsilon, 1 + settings.highest)
        bounded = ratio if settings.delta is None else ratio.clamp(max=settings.delta)
        losses = -torch.minimum(bounded * advantages, clipped * advantages)
    if tokens.corrections is not None:
        losses = losses * tokens.corrections
    divergence = None
    if settings.beta != 0:
        divergence = _divergence(tokens, ratio if settings.use_bias_correction_kl else None)
        losses = losses + settings.beta * divergence
    if settings.loss_type in ("grpo", "gspo"):
        loss = mean_of_each(losses, lengths).sum()
    else:
        loss = losses.sum()
    return loss, _statistics(tokens, settings, ratio, advantages, divergence)


def _divergence(tokens: PolicyTokens, ratio: torch.Tensor | None) -> torch.Tensor:
    """k3 of http://joschu.net/blog/kl-approx.html, each 0 or more without the ratio."""
    if tokens.ref_logprobs is None:
        raise ValueError("beta is not 0, so the log-probabilities of the base are needed.")
    difference = tokens.ref_logprobs - tokens.logprobs
    k3 = difference.exp() - difference - 1
    return k3 if ratio is None else k3 * ratio


@torch.no_grad()
def _statistics(
    tokens: PolicyTokens,
    settings: PolicyLossSettings,
    ratio: torch.Tensor,
    advantages: torch.Tensor,
    divergence: torch.Tensor | None,
) -> Statistics:
    def of_ratios(values: torch.Tensor) -> torch.Tensor:
        if settings.level == "token":
            return counted(values)
        # One value for each completion, which stands at all of its tokens: its first.
        first = values[tokens.lengths.cumsum(0) - tokens.lengths]
        return counted(first)

    found = {"ratio": of_ratios(ratio)}
    if divergence is not None:
        found["kl"] = counted(divergence)
    if tokens.entropies is not None:
        found["entropy"] = counted(tokens.entropies)
    if settings.loss_type == "cispo":
        clipped = (ratio > settings.highest) & (advantages > 0)
        return found | {"cispo_clip_ratio": of_ratios(clipped)}
    low = (ratio < 1 - settings.epsilon) & (advantages < 0)
    high = (ratio > 1 + settings.highest) & (advantages > 0)
    return found | {
        "clip_ratio/low": of_ratios(low),
        "clip_ratio/high": of_ratios(high),
        "clip_ratio/region": of_ratios(low | high),
    }
