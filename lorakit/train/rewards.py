"""Rewards of answers: the scorers of `tasks` and functions of one's own, named and weighted.

E answers, K rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lorakit import tasks
from lorakit.errors import InputError, RunError
from lorakit.recipe.rules.grpo import function_name, is_function
from lorakit.train.reward_functions import Answers, OnFailure, RewardFunction


@dataclass(frozen=True)
class Reward:
    """One of the rewards of a run.

    Attributes:
        scorer: a file of `tasks`, by name, or a function of one's own: `package.module:function`,
            `path.py:function` (see `reward_functions`).
        weight: of its scores in the sum; a negative one punishes.
        options: of a function of one's own, by name.
    """

    scorer: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In metrics."""
        return function_name(self.scorer)


def check_rewards(rewards: Sequence[Reward]) -> None:
    """Refuse rewards that cannot work, before anything runs.

    Raises:
        InputError: there is none, one is named twice, a weight is no number, or no scorer is
            called so.
    """
    if not rewards:
        raise InputError(
            f"no reward is given; possible: {', '.join(tasks.names())}. Name one at least."
        )
    names = [one.name for one in rewards]
    for one in rewards:
        if not is_function(one.scorer) and tasks.scorer(one.scorer).IS_OF_A_SET:
            possible = [name for name in tasks.names() if not tasks.scorer(name).IS_OF_A_SET]
            raise InputError(
                f"reward {one.scorer!r} holds an answer against other rows of its set, which for "
                "completions of one question is chance; possible: "
                f"{', '.join(possible)}. Choose one of them; as a metric it stays."
            )
        if names.count(one.name) > 1:
            raise InputError(
                f"reward {one.name!r} is named twice; possible: each scorer once, with the sum "
                "of the weights. Remove one."
            )
        if not np.isfinite(one.weight):
            raise InputError(f"reward {one.name!r} has weight {one.weight!r}; give a number.")


class Rewarder:
    """Rewards completions; the processes of functions of one's own end with the `with` block.

    Args:
        rewards: their order is that of the columns.
        scoring: what scorers need.
        on_failure, seconds: of functions of one's own, see `RewardFunction`.

    Raises:
        InputError: a function that is not there.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        scoring: tasks.ScoringOptions,
        *,
        on_failure: OnFailure = "error",
        seconds: float = 60.0,
    ) -> None:
        self._rewards, self._scoring = rewards, scoring
        self._functions = {
            one.scorer: RewardFunction(
                one.scorer, one.options, on_failure=on_failure, seconds=seconds
            )
            for one in rewards
            if is_function(one.scorer)
        }

    def __enter__(self) -> Rewarder:
        return self

    def __exit__(self, *_: object) -> None:
        for function in self._functions.values():
            function.close()

    def check(self, columns: Sequence[str]) -> None:
        """See that what rewards need beside this program is there, and that functions can be
        called.

        Args:
            columns: of the data set.

        Raises:
            InputError: it is not; with the fix.
        """
        self.check_scorers()
        for function in self._functions.values():
            function.check(columns)

    def check_scorers(self) -> None:
        """The part of `check` that needs no data and no model.

        Raises:
            InputError: what a scorer needs is not there; with the fix.
        """
        for one in self._rewards:
            if not is_function(one.scorer):
                tasks.scorer(one.scorer).check(self._scoring)

    def score(self, reward: Reward, answers: Answers) -> np.ndarray:
        """What one of the rewards makes of each answer.

        Returns:
            float64 (E,), not weighted; NaN where the reward has no opinion.

        Raises:
            RunError: it gave something else than a number for each answer.
        """
        if reward.scorer in self._functions:
            return self._functions[reward.scorer].scores(answers)
        scorer = tasks.scorer(reward.scorer)
        found = scorer.scores(answers.completions, answers.references, self._scoring)
        column = np.asarray(found, np.float64)
        count = len(answers.completions)
        if column.shape != (count,) or np.isinf(column).any():
            raise RunError(
                f"reward {reward.scorer!r} gave {column.shape} values for {count} answers, "
                f"{int(np.isinf(column).sum())} of them infinite; possible: one number for each. "
                f"Mend lorakit/tasks/{reward.scorer}.py."
            )
        return column
