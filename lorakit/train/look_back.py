"""Log-probabilities of a generation that are not those of the policy as it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached, adapter_disabled
from lorakit.base.eval_mode import eval_mode
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_steps import PolicySteps
from lorakit.train.rollouts import Rollouts


def look_back(
    model: PreTrainedModel,
    adapter: Attached,
    grpo: GRPOSettings,
    rollouts: Rollouts,
    steps: PolicySteps,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> None:
    """Those of the base, and those of the policy with nothing dropped: in place, as far as they are
    needed and not there.

    Args:
        model: not in training mode.
        steps: of `rollouts`.
        groups, stop_if_asked: see `PolicySteps.logprobs`.
    """
    if grpo.loss.beta != 0 and rollouts.ref_logprobs is None:
        with eval_mode(model), adapter_disabled(model):
            rollouts.ref_logprobs = steps.logprobs(
                model, adapter, groups=groups, stop_if_asked=stop_if_asked
            )
    is_corrected = grpo.rollout_importance_sampling_mode is not None
    if is_corrected and adapter.dropout.p > 0 and rollouts.undropped_logprobs is None:
        with eval_mode(model):
            rollouts.undropped_logprobs = steps.logprobs(
                model, adapter, groups=groups, stop_if_asked=stop_if_asked
            )
