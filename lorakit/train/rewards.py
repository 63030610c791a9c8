"""Rewards of answers: the scorers of `tasks`, what sees tokens, and functions of one's own, named
and weighted.

E answers, K rewards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lorakit import tasks
from lorakit.data.sources import Row
from lorakit.errors import InputError, RunError
from lorakit.recipe.reward_names import (
    LONGEST,
    OF_TOKENS,
    REWARD_OPTIONS,
    function_name,
    is_function,
    overlong_faults,
)
from lorakit.recipe.rules.fault import unknown
from lorakit.train.overlong import soft_overlong_punishment
from lorakit.train.reward_functions import Answers, OnFailure, RewardFunction
from lorakit.train.row_columns import columns_of


@dataclass(frozen=True)
class Reward:
    """One of the rewards of a run.

    Attributes:
        scorer: a file of `tasks`, by name, `soft_overlong_punishment`, or a function of one's own:
            `package.module:function`, `path.py:function` (see `reward_functions`).
        weight: of its scores in the sum; a negative one punishes.
        options: by name, of a function of one's own and of `soft_overlong_punishment`; of a scorer
            what it needs of `ScoringOptions`, in place of what the settings have for all.
        name: in metrics; left out: the scorer's, or the function's without its module.
    """

    scorer: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", function_name(self.scorer))

    def identity(self) -> dict[str, Any]:
        """The values that a resumed run must share. Of a function of one's own not where it lies:
        a folder may be moved, or be named in another way."""
        own = {"scorer": f":{function_name(self.scorer)}"} if is_function(self.scorer) else {}
        return dataclasses.asdict(self) | own


def check_rewards(rewards: Sequence[Reward], max_completion_length: int) -> None:
    """Refuse rewards that cannot work, before anything runs.

    Args:
        max_completion_length: of the rollouts, in tokens.

    Raises:
        InputError: there is none, two have one name, a weight is no number or all are 0, an option
            is none, or no scorer is called so.
    """
    if not rewards:
        raise InputError(f"no reward is given; possible: {', '.join(_possible())}. Name one.")
    names = [one.name for one in rewards]
    if not any(one.weight for one in rewards):
        raise InputError(
            f"weight 0 for {', '.join(names)}, so there is nothing to learn; give one of them at "
            "least another number."
        )
    for one in rewards:
        _check_scorer(one, max_completion_length)
        if names.count(one.name) > 1:
            raise InputError(
                f"two rewards are named {one.name!r}; possible: a name for each, "
                f"Reward({one.scorer!r}, name=...). Name them, or remove one."
            )
        if not np.isfinite(one.weight):
            raise InputError(f"reward {one.name!r} has weight {one.weight!r}; give a number.")


def _check_scorer(reward: Reward, max_completion_length: int) -> None:
    scorer = reward.scorer
    if is_function(scorer):
        return
    if scorer not in (*tasks.names(), *OF_TOKENS):
        fault = unknown((), scorer, tuple(_possible()))
        raise InputError(f"reward {fault.message}, or a function of your own. Choose one of them.")
    if scorer in OF_TOKENS:
        found = overlong_faults(reward.options, max_completion_length)
        faults = [f"option {name} {message}" for name, message in found.items()]
    elif tasks.scorer(scorer).IS_OF_A_SET:
        faults = [
            "holds an answer against other rows of its set, which for completions of one question "
            "is chance; as a metric it stays"
        ]
    else:
        wanted, _ = REWARD_OPTIONS.get(scorer, (None, ""))
        faults = [
            f"has no option {name!r}; possible: {wanted or 'none'}"
            for name in reward.options
            if name != wanted
        ]
    if faults:
        raise InputError(
            f"reward {scorer!r} {'; '.join(faults)}. Possible rewards: {', '.join(_possible())}, "
            "or a function of your own. Change it."
        )


def _possible() -> list[str]:
    scorers = [name for name in tasks.names() if not tasks.scorer(name).IS_OF_A_SET]
    return [*scorers, *OF_TOKENS]


class Rewarder:
    """Rewards completions; the processes of functions of one's own end with the `with` block.

    Args:
        rewards: their order is that of the columns.
        scoring: what scorers need, where the reward's own options do not say it.
        max_completion_length: of the rollouts, in tokens.
        on_failure, seconds: of functions of one's own, see `RewardFunction`.

    Raises:
        InputError: a function that is not there.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        scoring: tasks.ScoringOptions,
        *,
        max_completion_length: int,
        on_failure: OnFailure = "error",
        seconds: float = 60.0,
    ) -> None:
        self._rewards = rewards
        self._longest = {LONGEST: max_completion_length}
        self._scoring = {
            one.name: dataclasses.replace(scoring, **one.options)
            for one in rewards
            if not is_function(one.scorer) and one.scorer not in OF_TOKENS
        }
        self._functions = {
            one.name: RewardFunction(
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

    def check(self, rows: Sequence[Row] | None) -> None:
        """See that what rewards need beside this program is there, and that functions can be
        called.

        Args:
            rows: of the data set, all of them: a function may want a column that one lacks.

        Raises:
            InputError: it is not; with the fix.
        """
        self.check_scorers()
        columns = columns_of(rows if self._functions else None)
        for function in self._functions.values():
            function.check(columns)

    def check_as_written(self, rows: Sequence[Row] | None) -> None:
        """The part of `check` that runs no function: whether columns and options are those that
        functions take, as their files have them.

        Raises:
            InputError: they are not.
        """
        columns = columns_of(rows if self._functions else None)
        for function in self._functions.values():
            function.check_as_written(columns)

    def check_scorers(self) -> None:
        """The part of `check` that needs no data and no model.

        Raises:
            InputError: what a scorer needs is not there; with the fix.
        """
        for one in self._rewards:
            if one.name in self._scoring:
                tasks.scorer(one.scorer).check(self._scoring[one.name])

    def score(
        self, reward: Reward, answers: Answers, stop_if_asked: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """What one of the rewards makes of each answer.

        Args:
            stop_if_asked: called all the while by what may take long; what it raises ends it.

        Returns:
            float64 (E,), not weighted; NaN where the reward has no opinion.

        Raises:
            RunError: it gave something else than a number for each answer.
        """
        if reward.name in self._functions:
            return self._functions[reward.name].scores(answers, stop_if_asked)
        if reward.scorer in OF_TOKENS:
            lengths = np.array([len(ids) for ids in answers.completion_ids], np.int64)
            return soft_overlong_punishment(lengths, **(self._longest | dict(reward.options)))
        options = dataclasses.replace(
            self._scoring[reward.name], stop_if_asked=stop_if_asked, set_name="train"
        )
        return self._by_scorer(reward, answers, options)

    def _by_scorer(
        self, reward: Reward, answers: Answers, options: tasks.ScoringOptions
    ) -> np.ndarray:
        found = tasks.scorer(reward.scorer).scores(answers.completions, answers.references, options)
        column = np.asarray(found, np.float64)
        count = len(answers.completions)
        if column.shape != (count,) or np.isinf(column).any():
            raise RunError(
                f"reward {reward.scorer!r} gave {column.shape} values for {count} answers, "
                f"{int(np.isinf(column).sum())} of them infinite; possible: one number for each. "
                f"Mend lorakit/tasks/{reward.scorer}.py."
            )
        return column
