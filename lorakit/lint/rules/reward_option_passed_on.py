"""An option that a reward function has no argument for."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.recipe.reward_names import is_function
from lorakit.train.reward_source import find_function, signature_in

ID = "reward-option-passed-on"
SEVERITIES = ("note",)
TITLE = "An option that a reward function has no argument for"
REASON = (
    "A function with `**kwargs` takes every option. One that it does not name has an effect only "
    "if the function looks for it in there; a wrong name is swallowed, and the reward is another "
    "than was meant. A name that is nearly that of an argument is an error at once."
)
SOURCE = "practice"
EXAMPLE = """\
grpo: {rewards: [{name: "rewards.py:brevity", options: {most_words: 40}}]}
# rewards.py: def brevity(completions, limit=50, **kwargs)"""
MEND = "Name the argument in the function, or take the option out of the recipe."


def find(facts: Facts) -> Iterator[Finding]:
    if not facts.is_policy:
        return
    for index, reward in enumerate(facts.recipe.grpo.named_rewards):
        if not is_function(reward.scorer):
            continue
        written = signature_in(*find_function(reward.scorer))
        if written is None:
            continue
        passed_on = [name for name in reward.options if name not in written.takes]
        if passed_on:
            named = ", ".join(map(repr, passed_on))
            yield Finding(
                ID,
                "note",
                f"reward {reward.scorer!r} has no argument {named}: passed on to its **kwargs, "
                "where only the function's own code can use it; arguments it names: "
                f"{', '.join(written.takes)}",
                f"grpo.rewards.{index}.options",
            )
