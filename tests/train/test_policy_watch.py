"""What is said of a policy gradient while it runs: once, and never of a sound run."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from lorakit.tasks import ScoringOptions
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.policy_watch import WINDOW, Finding, PolicyWatch
from lorakit.train.rewards import Reward
from tests.train.grpo_runs import adapted, run

WEIGHTS = {"math": 1.0, "tags": 0.2, "length": -0.1}
SOUND = {
    "reward": (0.3, 0.7),
    "frac_reward_zero_std": (0.2, 0.45),
    "completions/mean_length": (100, 140),
    "completions/clipped_ratio": (0.1, 0.05),
    "rewards/math/mean": (0.3, 0.6),
    "rewards/math/std": (0.4, 0.4),
    "rewards/tags/mean": (0.5, 0.9),
    "rewards/tags/std": (0.5, 0.3),
    "rewards/length/mean": (1.0, 1.1),
    "rewards/length/std": (0.4, 0.3),
}
COUNT = 6 * WINDOW


def lines_of(**ends: tuple[float, float]) -> list[dict[str, float]]:
    """From one value to the other; two lines of three tell of a generation."""
    found = []
    for place, share in enumerate(np.linspace(0, 1, COUNT)):
        values = {n: low + share * (high - low) for n, (low, high) in (SOUND | ends).items()}
        found.append({"step": place + 1} | (values if place % 3 else {}))
    return found


def seen(lines: list[dict[str, float]], start: int = 0) -> list[Finding]:
    watch = PolicyWatch(WEIGHTS)
    if start:
        watch.look(lines[:start])
    return [one for end in range(start + 1, len(lines) + 1) for one in watch.look(lines[:end])]


def test_a_sound_run_is_left_alone() -> None:
    assert seen(lines_of()) == []
    long_but_worth_it = lines_of(**{"completions/mean_length": (100, 900)})
    assert seen(long_but_worth_it) == []


FAULTY = {
    "groups-without-variance": {"frac_reward_zero_std": (0.3, 0.9)},
    "length-runs-away": {"completions/mean_length": (100, 400), "reward": (0.5, 0.45)},
    "reward-gamed": {"rewards/math/mean": (0.6, 0.2)},
}


@pytest.mark.parametrize("kind", FAULTY)
def test_what_goes_wrong_is_said_once(kind: str) -> None:
    lines = lines_of(**FAULTY[kind])
    found = seen(lines)
    assert [one.id for one in found] == [kind]
    assert 2 * WINDOW <= found[0].step <= len(lines)
    # A run that is resumed behind that place does not say it again, one before it does.
    assert seen(lines, found[0].step) == []
    assert seen(lines, found[0].step - 1) == found
    # Nor does one that is over before there is enough to compare.
    assert seen(lines[: 2 * WINDOW]) == []


def test_groups_without_variance_are_said_after_one_window() -> None:
    """Nothing is compared with how it was at first."""
    lines = lines_of(frac_reward_zero_std=(0.9, 0.9))
    told = [line["step"] for line in lines if "reward" in line]
    assert [(one.id, one.step) for one in seen(lines)] == [
        ("groups-without-variance", told[WINDOW - 1])
    ]


def test_other_ways_to_run_away_and_to_be_gamed() -> None:
    cut = {"completions/mean_length": (100, 400), "completions/clipped_ratio": (0.1, 0.6)}
    assert [one.id for one in seen(lines_of(**cut))] == ["length-runs-away"]
    # A reward with a negative weight is lost where its values rise.
    punished = {"rewards/length/mean": (1.0, 3.0)}
    found = seen(lines_of(**punished))
    assert [one.id for one in found] == ["reward-gamed"] and "at the cost of 'length'" in str(found)


def test_a_run_says_it(caplog: pytest.LogCaptureFixture) -> None:
    """All completions have the reward, so nothing varies."""
    alike = GRPOSettings(
        rewards=(Reward("regex"),),
        scoring=ScoringOptions(regex=""),
        num_generations=2,
        loss=PolicyLossSettings(max_completion_length=1),
    )
    with caplog.at_level(logging.WARNING, "lorakit.train.reporter"):
        run(adapted(), alike, max_steps=WINDOW + 2, batch_size=2, logging_steps=1)
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"seen at step {WINDOW}: 100% of the completions are in groups")
