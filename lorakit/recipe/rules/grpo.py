"""What `grpo` may not say, and what of the other sections a policy gradient has no use for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import regex

from lorakit.recipe.rules.fault import Fault, is_given, names_in, no_effect, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.grpo import GRPOSection, RewardSection
    from lorakit.recipe.sections.recipe import Recipe

GRPO = "grpo"
# {scorer: (its option, what it may be)}; no other scorer has one.
REWARD_OPTIONS = {
    "regex": ("regex", "a pattern such as '(?s)<answer>.+</answer>'"),
    "json_schema": ("json_schema", "a file with a JSON schema"),
}
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
    yield from _groups(recipe)
    yield from _other_sections(recipe)


def is_function(name: str) -> bool:
    """Whether a reward is a function of the user's own, not a scorer."""
    return ":" in name


def function_name(name: str) -> str:
    """What a reward is called in metrics: the scorer, or the function without its module."""
    return name.rpartition(":")[2]


def _rewards(grpo: GRPOSection) -> Iterator[Fault]:
    scorers, place = names_in("tasks"), ("grpo", "rewards")
    if not grpo.rewards:
        yield Fault(
            place,
            "is empty, so there is nothing to learn; possible: names such as [math], or "
            "{name, weight, options}",
        )
    called: list[str] = []
    for index, one in enumerate(grpo.named_rewards):
        here: tuple[str | int, ...] = (*place, index)
        if is_function(one.name):
            yield from _function(here, one.name)
        elif one.name not in scorers:
            own = (
                *scorers,
                "or a function of your own, package.module:function or file.py:function",
            )
            yield unknown(here, one.name, own)
        else:
            yield from _options(here, one)
        if function_name(one.name) in called:
            yield Fault(
                here,
                f"{function_name(one.name)!r} is named twice; name it once, with the sum of the "
                "weights",
            )
        called.append(function_name(one.name))
    if not any(is_function(one.name) for one in grpo.named_rewards):
        for name in ("on_reward_failure", "reward_seconds"):
            if is_given(grpo, name):
                yield no_effect(
                    ("grpo", name), "no reward is a function of your own", "name one in rewards"
                )


def _function(place: tuple[str | int, ...], name: str) -> Iterator[Fault]:
    where, _, function = name.rpartition(":")
    is_file = where.endswith(".py")
    modules = where.split(".")
    if not function.isidentifier() or not (is_file or all(map(str.isidentifier, modules))):
        yield Fault(
            place,
            f"{name!r} names no function; possible: package.module:function, file.py:function",
        )


def _options(place: tuple[str | int, ...], reward: RewardSection) -> Iterator[Fault]:
    wanted, possible = REWARD_OPTIONS.get(reward.name, (None, ""))
    for name in reward.options:
        if name != wanted:
            knows = "no options" if wanted is None else f"the option {wanted}"
            yield no_effect(
                (*place, "options", name), f"the scorer {reward.name} has {knows}", "name another"
            )
    if wanted is None:
        return
    value: Any = reward.options.get(wanted)
    if not isinstance(value, str):
        told = "is missing" if wanted not in reward.options else f"is {value!r}"
        yield Fault(place, f"{reward.name!r}: options.{wanted} {told}; give {possible}")
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
    low, high_bound = (
        grpo.rollout_importance_sampling_clip_min,
        grpo.rollout_importance_sampling_clip_max,
    )
    if grpo.importance_sampling_mode is None:
        for name in ("clip_max", "clip_min"):
            if is_given(grpo, f"rollout_importance_sampling_{name}"):
                yield no_effect(
                    ("grpo", f"rollout_importance_sampling_{name}"),
                    "grpo.rollout_importance_sampling_mode is not set",
                    "set it",
                )
    elif low is not None and high_bound is not None and low > high_bound:
        yield Fault(
            ("grpo", "rollout_importance_sampling_clip_min"),
            f"{low:g} is above clip_max {high_bound:g}; possible: up to it",
        )


def _groups(recipe: Recipe) -> Iterator[Fault]:
    grpo, batch_size = recipe.grpo, recipe.train.batch_size
    completions = batch_size * grpo.steps_per_generation
    if completions % grpo.num_generations:
        yield Fault(
            ("train", "batch_size"),
            f"{batch_size} times grpo.steps_per_generation {grpo.steps_per_generation} are "
            f"{completions} completions, which are no whole groups of grpo.num_generations "
            f"{grpo.num_generations}; possible: a multiple of it",
        )


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
