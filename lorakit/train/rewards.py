"""Rewards of answers: the scorers of `tasks`, named and weighted.

E answers, K rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit import tasks
from lorakit.errors import InputError, RunError
from lorakit.jail.jail import jail


@dataclass(frozen=True)
class Reward:
    """One of the rewards of a run.

    Attributes:
        scorer: a file of `tasks`, by name.
        weight: of its scores in the sum; a negative one punishes.
    """

    scorer: str
    weight: float = 1.0


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
    names = [one.scorer for one in rewards]
    for one in rewards:
        tasks.scorer(one.scorer)
        if names.count(one.scorer) > 1:
            raise InputError(
                f"reward {one.scorer!r} is named twice; possible: each scorer once, with the sum "
                "of the weights. Remove one."
            )
        if not np.isfinite(one.weight):
            raise InputError(f"reward {one.scorer!r} has weight {one.weight!r}; give a number.")


def check_outside(rewards: Sequence[Reward]) -> None:
    """See that what rewards need beside this program is there: for code the jail.

    Raises:
        InputError: it is not; with the fix.
    """
    if any(one.scorer == "code" for one in rewards):
        jail()


def score(
    reward: Reward,
    answers: Sequence[str],
    references: Sequence[str],
    options: tasks.ScoringOptions,
) -> np.ndarray:
    """What a reward makes of each answer.

    Args:
        answers, references: E texts each.

    Returns:
        float64 (E,), not weighted; NaN where the scorer has no opinion.

    Raises:
        RunError: the scorer gave something else than a number for each answer.
    """
    scored = tasks.scorer(reward.scorer).scores(answers, references, options)
    column = np.asarray(scored, np.float64)
    if column.shape != (len(answers),) or np.isinf(column).any():
        raise RunError(
            f"reward {reward.scorer!r} gave {column.shape} values for {len(answers)} answers, "
            f"{int(np.isinf(column).sum())} of them infinite; possible: one number for each. "
            f"Mend lorakit/tasks/{reward.scorer}.py."
        )
    return column
