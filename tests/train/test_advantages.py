"""Advantages of groups: what TRL's parity (test_policy_parity.py) does not show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.train.advantages import EPSILON, advantages

AGGREGATIONS = ["sum_then_normalize", "normalize_then_sum"]


def test_the_formula_on_groups_of_any_size_and_order() -> None:
    rewards = np.array([[1.0], [5.0], [2.0], [7.0], [3.0]])
    found = advantages(rewards, [3, 0, 3, 0, 3])
    for members in ([0, 2, 4], [1, 3]):
        values = rewards[members, 0]
        expected = (values - values.mean()) / (values.std(ddof=1) + EPSILON)
        assert found.advantages[members] == pytest.approx(expected, abs=1e-12)
    assert found.varies.all() and (found.rewards == rewards[:, 0]).all()


@settings(max_examples=25)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@given(
    rewards=st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=8, max_size=8),
    seed=st.integers(0, 99),
)
def test_neither_order_nor_a_constant_changes_anything(
    aggregation: str, scale_rewards: str, rewards: list[float], seed: int
) -> None:
    values, groups = np.array(rewards).reshape(-1, 1), np.array([0, 0, 0, 1, 1, 1, 1, 2])
    options = {"aggregation": aggregation, "scale_rewards": scale_rewards}
    found = advantages(values, groups, **options)
    order = np.random.default_rng(seed).permutation(8)
    moved = advantages(values[order] + 2, groups[order], **options)
    assert moved.advantages == pytest.approx(found.advantages[order], abs=1e-9)
    assert (moved.varies == found.varies[order]).all()
    assert found.advantages.sum() == pytest.approx(0, abs=1e-9) or aggregation != AGGREGATIONS[0]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_equal_rewards_teach_nothing_at_all(aggregation: str) -> None:
    # In float32 the mean of these is not 0.1, and 1e-9 over EPSILON is a gradient.
    rewards = np.array([[0.1]] * 7 + [[0.0], [1.0]])
    found = advantages(rewards, [0] * 7 + [1, 1], aggregation=aggregation)
    assert np.abs(found.advantages[:7]).max() < 1e-10
    assert not found.varies[:7].any() and found.varies[7:].all()


def test_nobody_s_opinion_is_no_reward() -> None:
    nan = np.nan
    rewards = np.array([[1.0, nan], [nan, nan], [0.0, 0.5], [nan, nan], [2.0, nan]])
    found = advantages(rewards, [0, 0, 0, 1, 2], weights=[1, 2])
    assert found.advantages[[1, 3, 4]].tolist() == [0, 0, 0]  # not scored, and alone
    assert np.isnan(found.rewards[[1, 3]]).all() and found.rewards[[0, 2]].tolist() == [1, 1]
    assert not found.varies.any()  # both scored ones of group 0 come to 1
    assert np.isfinite(found.advantages).all()


def test_a_reward_of_no_weight_makes_no_difference() -> None:
    rewards = np.array([[1.0, 0.0], [1.0, 9.0]])
    for aggregation in AGGREGATIONS:
        found = advantages(rewards, [0, 0], weights=[1, 0], aggregation=aggregation)
        assert not found.varies.any() and (found.advantages == 0).all()


@pytest.mark.parametrize(
    ("rewards", "options", "said"),
    [
        ([[1.0], [np.inf]], {}, "reward 0 of completion 1 is infinite"),
        ([[1.0], [2.0]], {"weights": [1, 2]}, "do not fit"),
        ([[1.0], [2.0]], {"weights": [np.nan]}, "reward_weights"),
        ([[1.0], [2.0]], {"scale_rewards": "groups"}, "possible: group, batch, none"),
        ([[1.0], [2.0]], {"aggregation": "sum"}, "possible: sum_then_normalize"),
    ],
)
def test_what_cannot_work_is_refused(rewards: list, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        advantages(np.array(rewards), [0, 0], **options)
