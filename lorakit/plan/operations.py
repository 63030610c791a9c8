"""The operations of a run, part by part."""

from __future__ import annotations

from lorakit.engine.model_flops import ModelFlops
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import RecomputePolicy
from lorakit.plan.policy_work import PolicyWork
from lorakit.plan.time import Events
from lorakit.plan.workload import Workload


def count_operations(
    flops: ModelFlops,
    workload: Workload,
    events: Events,
    recompute: RecomputePolicy,
    policy: PolicyWork | None,
) -> dict[str, float]:
    """{part: operations}, and their "total"; generated answers of the evaluation are not in them.

    Args:
        workload, events: of the run.
        recompute: of its training passes.
        policy: of a policy gradient; None: it is SFT.
    """
    passes = sum(flops.training(one, recompute) for one in workload.passes)
    training = passes * workload.scale + flops.step * workload.num_steps
    validation = events.validations * sum(flops.evaluation(one) for one in events.validation)
    measured = (*events.evaluation.losses, *events.evaluation.choices)
    evaluation = 2 * sum(one.times * sum(map(flops.evaluation, one.passes)) for one in measured)
    parts = {"training": training, "validation": validation, "evaluation": evaluation}
    if policy is not None:
        looked = sum(map(flops.evaluation, workload.passes)) * workload.scale
        parts["training"] += policy.num_looks * looked
        reading = policy.prompt_scale * sum(map(flops.evaluation, policy.prompts))
        written = policy.num_generations * sum(policy.at_a_time) * policy.completion_tokens
        parts["rollouts"] = reading + written * flops.evaluation(Pass(1, 1, (1,)))
    return parts | {"total": sum(parts.values())}
