"""What `grpo` may not say, and what of the other sections a policy gradient has no use for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import regex

from lorakit.recipe.cycle_sizes import cycle_faults
from lorakit.recipe.reward_names import (
    OF_TOKENS,
    REWARD_OPTIONS,
    SOFT_OVERLONG,
    function_name,
    is_function,
    overlong_faults,
)
from lorakit.recipe.rules.fault import Fault, is_given, names_in, no_effect, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.grpo import GRPOSection, NamedReward
    from lorakit.recipe.sections.recipe import Recipe

GRPO = "grpo"
# Of `train`: what looks at a validation, which a policy gradient has none of.
OF_VALIDATION = ("eval_steps", "early_stopping_patience")


def grpo_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the grpo section, and of a recipe that uses it."""
    if recipe.train.method != GRPO:
        if is_given(recipe, "grpo"):
            yield no_effect(
                ("grpo",), f"train.method is {recipe.train.method}", "set train.method to grpo"
            )
        return
    yield from _rewards(recipe.grpo)
    yield from _objective(recipe.grpo)
    yield from _corrections(recipe.grpo)
    yield from _sizes(recipe)
    yield from _other_sections(recipe)


def _rewards(grpo: GRPOSection) -> Iterator[Fault]:
    place = ("grpo", "rewards")
    if not grpo.rewards:
        yield Fault(
            place,
            "is empty, so there is nothing to learn; possible: names such as [math], or "
            "{name, weight, options}",
        )
    rewards = grpo.named_rewards
    if rewards and not any(one.weight for one in rewards):
        yield Fault(
            place,
            "have weight 0, all of them, so there is nothing to learn; possible: any other number "
            "for one at least (0 keeps a reward in the metrics only)",
        )
    for index, one in enumerate(rewards):
        here: tuple[str | int, ...] = (*place, index)
        yield from _scorer(here, one, grpo.max_completion_length)
        yield from _name(here, one, [other.name for other in rewards[:index]])
    if not any(is_function(one.scorer) for one in rewards):
        for name in ("on_reward_failure", "reward_seconds"):
            if is_given(grpo, name):
                yield no_effect(
                    ("grpo", name), "no reward is a function of your own", "name one in rewards"
                )


def _scorer(
    place: tuple[str | int, ...], reward: NamedReward, max_completion_length: int
) -> Iterator[Fault]:
    possible = (*names_in("tasks"), *OF_TOKENS)
    if is_function(reward.scorer):
        yield from _function(place, reward.scorer)
    elif reward.scorer == SOFT_OVERLONG:
        for name, message in overlong_faults(reward.options, max_completion_length).items():
            yield Fault((*place, "options", name), message)
    elif reward.scorer in possible:
        yield from _options(place, reward)
    else:
        own = "or a function of your own, package.module:function or file.py:function"
        yield unknown(place, reward.scorer, (*possible, own))


def _name(
    place: tuple[str | int, ...], reward: NamedReward, before: Sequence[str]
) -> Iterator[Fault]:
    """What a reward is called in metrics."""
    name, scorers = reward.name, {*names_in("tasks"), *OF_TOKENS} - {reward.scorer}
    is_own = name != function_name(reward.scorer)
    if name in before:
        yield Fault(
            place,
            f"{name!r} is the name of two rewards; possible: a name for each, "
            f"{{name: ..., scorer: {reward.scorer}}}, or one of them with the sum of the weights",
        )
    elif is_own and name in scorers:
        yield Fault(place, f"{name!r} is what another scorer is called; possible: another name")
    elif is_own and not regex.fullmatch(r"[\w.-]+", name):
        yield Fault(place, f"{name!r} is no name; possible: letters, digits and any of _ . -")


def _function(place: tuple[str | int, ...], name: str) -> Iterator[Fault]:
    where, _, function = name.rpartition(":")
    is_file = where.endswith(".py")
    modules = where.split(".")
    if not function.isidentifier() or not (is_file or all(map(str.isidentifier, modules))):
        yield Fault(
            place,
            f"{name!r} names no function; possible: package.module:function, file.py:function",
        )


def _options(place: tuple[str | int, ...], reward: NamedReward) -> Iterator[Fault]:
    wanted, possible = REWARD_OPTIONS.get(reward.scorer, (None, ""))
    for name in reward.options:
        if name != wanted:
            knows = "no options" if wanted is None else f"the option {wanted}"
            yield no_effect(
                (*place, "options", name), f"the scorer {reward.scorer} has {knows}", "name another"
            )
    if wanted is None:
        return
    value: Any = reward.options.get(wanted)
    if not isinstance(value, str):
        told = "is missing" if wanted not in reward.options else f"is {value!r}"
        yield Fault(place, f"{reward.scorer!r}: options.{wanted} {told}; give {possible}")
    elif wanted == "regex":
        try:
            regex.compile(value)
        except regex.error as error:
            yield Fault(
                (*place, "options", wanted),
                f"{value!r} is no pattern: {error}; possible: Python's syntax",
            )


def _objective(grpo: GRPOSection) -> Iterator[Fault]:
    """Options of the objective that exclude each other; the numbers' bounds are the settings'."""
    if grpo.loss_type == "gspo" and grpo.importance_sampling_level == "token":
        yield Fault(
            ("grpo", "importance_sampling_level"),
            "'token' is not what loss_type gspo means; possible: sequence, or loss_type grpo",
        )
    if grpo.loss_type == "cispo":
        if grpo.epsilon_high is None:
            yield Fault(
                ("grpo", "epsilon_high"),
                "is missing; of loss_type cispo it is the largest ratio, in the paper 5.0",
            )
        for name in ("epsilon", "delta"):
            if is_given(grpo, name) and getattr(grpo, name) is not None:
                yield no_effect(
                    ("grpo", name), "loss_type is cispo, which has no such bound", "choose another"
                )
    elif grpo.delta is not None:
        high = grpo.epsilon if grpo.epsilon_high is None else grpo.epsilon_high
        if grpo.delta <= 1 + high:
            yield Fault(
                ("grpo", "delta"),
                f"{grpo.delta:g} is no more than 1 + epsilon_high, {1 + high:g}, so that it would "
                "be nothing but a smaller epsilon_high; possible: above it",
            )
    if grpo.beta == 0 and is_given(grpo, "use_bias_correction_kl"):
        yield no_effect(("grpo", "use_bias_correction_kl"), "grpo.beta is 0", "set beta")
    if grpo.multi_objective_aggregation == "normalize_then_sum" and is_given(grpo, "scale_rewards"):
        yield no_effect(
            ("grpo", "scale_rewards"),
            "multi_objective_aggregation normalize_then_sum scales by each reward's own deviation",
            "choose sum_then_normalize",
        )


def _corrections(grpo: GRPOSection) -> Iterator[Fault]:
    low = grpo.rollout_importance_sampling_clip_min
    high = grpo.rollout_importance_sampling_clip_max
    if grpo.importance_sampling_mode is None:
        for name in ("clip_max", "clip_min"):
            if is_given(grpo, f"rollout_importance_sampling_{name}"):
                yield no_effect(
                    ("grpo", f"rollout_importance_sampling_{name}"),
                    "grpo.rollout_importance_sampling_mode is not set",
                    "set it",
                )
    elif low is not None and high is not None and low > high:
        yield Fault(
            ("grpo", "rollout_importance_sampling_clip_min"),
            f"{low:g} is above clip_max {high:g}; possible: up to it",
        )


def _sizes(recipe: Recipe) -> Iterator[Fault]:
    for name, message in cycle_faults(recipe.grpo, recipe.train.batch_size).items():
        yield Fault(("train" if name == "batch_size" else "grpo", name), message)


def _other_sections(recipe: Recipe) -> Iterator[Fault]:
    for name in OF_VALIDATION:
        if getattr(recipe.train, name) is not None:
            yield no_effect(
                ("train", name),
                "train.method grpo has no validation loss",
                "set train.method to sft",
            )
    if recipe.data.trained == "all":
        yield Fault(
            ("data", "trained"),
            "'all' leaves no prompt to complete; possible with train.method grpo: assistant, "
            "completion",
        )
    if recipe.data.validation is not None and recipe.evaluate.in_domain is not None:
        yield no_effect(
            ("data", "validation"),
            "train.method grpo has no validation loss, and evaluate.in_domain names the rows to "
            "measure",
            "remove evaluate.in_domain",
        )
