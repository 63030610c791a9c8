"""Rewards to advantages: how much better a completion is than the others of its group.

E completions, K reward functions; a group is the completions of one prompt, of any size.

    A_i = (r_i - mean of its group) / (std + EPSILON)                      arXiv 2402.03300 (GRPO)

`scale_rewards` says which std: its group's, the batch's (arXiv 2508.08221), or none (arXiv
2503.20783, Dr. GRPO). Several rewards are weighted and summed first, or each is normalized in its
group, then they are weighted and summed, and the batch is normalized (arXiv 2601.05242, GDPO). All
of it means what it means in TRL 1.16, but is computed in float64 instead of float32, where equal
rewards would differ from their mean by a rounding error, and that would be divided by EPSILON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ScaleRewards = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]

EPSILON = 1e-4  # TRL's
# A standard deviation up to this is none: what torch.isclose, and so TRL, calls zero.
NO_SPREAD = 1e-8


@dataclass(frozen=True)
class Advantages:
    """What the rewards of one batch come to.

    Attributes:
        advantages: float64 (E,); 0 for a completion that no function could score.
        rewards: float64 (E,), weighted sum of each completion's rewards; NaN where there is none.
        varies: bool (E,), whether the completion's group has rewards that differ: elsewhere there
            is nothing to learn from.
    """

    advantages: np.ndarray
    rewards: np.ndarray
    varies: np.ndarray


def advantages(
    rewards: np.ndarray,
    groups: Sequence[int] | np.ndarray,
    *,
    weights: Sequence[float] | None = None,
    scale_rewards: ScaleRewards = "group",
    aggregation: Aggregation = "sum_then_normalize",
) -> Advantages:
    """Advantages of a batch of whole groups.

    A NaN says that a function has no opinion on a completion (in TRL: it returned None): it takes
    no part in means and standard deviations. Standard deviations have n - 1 in the denominator; a
    group with a single scored completion has none, and that completion's advantage is 0.

    Args:
        rewards: (E, K); NaN: not scored.
        groups: (E,), a number for each completion's group; members may be missing, and groups may
            lie in any order.
        weights: K, of each function; None: 1 each.
        scale_rewards: which standard deviation divides, with `sum_then_normalize`; with
            `normalize_then_sum` it is always each function's in its group, then the batch's.
        aggregation: how K rewards become one.

    Raises:
        ValueError: shapes that do not fit, an infinite reward, or an unknown name.
    """
    rewards = np.asarray(rewards, np.float64)
    groups = np.asarray(groups)
    weight_K = np.ones(rewards.shape[-1]) if weights is None else np.asarray(weights, np.float64)
    _check(rewards, groups, weight_K, scale_rewards, aggregation)
    members = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups.tolist())]
    scored = ~np.isnan(rewards).all(axis=1)
    weighted = _weighted(rewards, weight_K, scored)
    if aggregation == "sum_then_normalize":
        centred = _centred(weighted, members)
        if scale_rewards == "none":
            values = centred
        else:
            spread = [np.arange(len(weighted))] if scale_rewards == "batch" else members
            values = centred / (_per_member(weighted, spread, _std) + EPSILON)
        varies = _per_member(weighted, members, _std) > NO_SPREAD
    else:
        spreads_EK = np.stack([_per_member(r, members, _std) for r in rewards.T], axis=1)
        centred_EK = np.stack([_centred(r, members) for r in rewards.T], axis=1)
        summed = _weighted(centred_EK / (spreads_EK + EPSILON), weight_K, scored)
        values = (summed - _mean(summed)) / (_std(summed) + EPSILON)
        varies = ((spreads_EK > NO_SPREAD) & (weight_K != 0)).any(axis=1)
    return Advantages(np.nan_to_num(values, nan=0.0), weighted, varies)


def _weighted(rewards: np.ndarray, weights: np.ndarray, scored: np.ndarray) -> np.ndarray:
    summed = np.nansum(rewards * weights, axis=1)
    # A sum of no rewards is no reward of 0.
    return np.where(scored, summed, np.nan)


def _centred(values: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    return values - _per_member(values, members, _mean)


def _per_member(
    values: np.ndarray, members: Sequence[np.ndarray], of: Callable[[np.ndarray], float]
) -> np.ndarray:
    """What `of` makes of each group, for each member."""
    result = np.empty_like(values)
    for group in members:
        result[group] = of(values[group])
    return result


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _std(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")


def _check(
    rewards: np.ndarray,
    groups: np.ndarray,
    weights: np.ndarray,
    scale_rewards: str,
    aggregation: str,
) -> None:
    if rewards.ndim != 2 or groups.shape != rewards.shape[:1] or weights.shape != rewards.shape[1:]:
        raise ValueError(
            f"rewards {rewards.shape}, groups {groups.shape} and weights {weights.shape} do not "
            "fit; possible: (E, K), (E,) and (K,)."
        )
    if np.isinf(rewards).any():
        place = np.argwhere(np.isinf(rewards))[0].tolist()
        raise ValueError(
            f"reward {place[1]} of completion {place[0]} is infinite; possible: numbers, or NaN "
            "where a function has none."
        )
    if not np.isfinite(weights).all():
        raise ValueError(f"reward_weights {weights.tolist()}; possible: finite numbers.")
    for name, value, possible in (
        ("scale_rewards", scale_rewards, ("group", "batch", "none")),
        ("multi_objective_aggregation", aggregation, ("sum_then_normalize", "normalize_then_sum")),
    ):
        if value not in possible:
            raise ValueError(f"{name} {value!r}; possible: {', '.join(possible)}.")
