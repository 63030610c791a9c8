"""Rewards that see tokens, and two that have one scorer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lorakit.errors import InputError
from lorakit.recipe import parse_recipe
from lorakit.recipe.reward_names import LONGEST, overlong_faults
from lorakit.recipe.sections.grpo import GRPOSection
from lorakit.run_folder import with_absolute_paths
from lorakit.tasks import ScoringOptions
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.overlong import soft_overlong_punishment
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.reward_functions import Answers
from lorakit.train.rewards import Reward, Rewarder
from tests.train.grpo_runs import CYCLES, adapted, run

OWN = Path(__file__).with_name("own_rewards.py")


def answers(texts: list[str], lengths: list[int]) -> Answers:
    count = len(texts)
    ids = [[5] * length for length in lengths]
    return Answers(texts, ["r"] * count, ["p"] * count, ids, [{}] * count, ["here"] * count)


@pytest.mark.parametrize("longest", [1, 7, 32])
def test_the_soft_punishment_is_that_of_trl(longest: int) -> None:
    theirs = pytest.importorskip("trl.rewards").get_soft_overlong_punishment
    lengths = list(range(1, 2 * longest + 3))
    for cache in range(longest + 1):
        function = theirs(max_completion_len=longest, soft_punish_cache=cache)
        expected = function(completion_ids=[[1] * length for length in lengths])
        found = soft_overlong_punishment(
            np.array(lengths), max_completion_len=longest, soft_punish_cache=cache
        )
        assert found.tolist() == expected, cache
        assert found.min() == -1 and found.max() == (0 if cache < longest else found[0])


def test_it_counts_the_tokens_that_were_drawn() -> None:
    """Of 4 at most, and `max_completion_len` is what the rollouts allow."""
    punished = Reward("soft_overlong_punishment", options={"soft_punish_cache": 2})
    grpo = dataclasses.replace(CYCLES, rewards=(punished,))
    with grpo.rewarder() as rewarder:
        found = rewarder.score(punished, answers(["", "a", "b", "c"], [1, 2, 3, 4]))
    assert found.tolist() == [0, 0, -0.5, -1]
    at_2 = {"soft_punish_cache": 0, LONGEST: 2}
    sooner = Reward("soft_overlong_punishment", options=at_2)
    with dataclasses.replace(CYCLES, rewards=(sooner,)).rewarder() as rewarder:
        assert rewarder.score(sooner, answers(["", "a", "b"], [1, 2, 3])).tolist() == [0, 0, -1]


def test_a_run_punishes_the_lengths_that_it_tells() -> None:
    """Of further questions too, which are rewarded apart."""
    from_the_first = Reward("soft_overlong_punishment", 0.0, {"soft_punish_cache": 4})
    rewards = (Reward("regex"), from_the_first)
    stops = tuple("aeiou")  # so that lengths differ
    grpo = dataclasses.replace(CYCLES, rewards=rewards, max_resample_times=2, stop_strings=stops)
    lines = run(adapted(), grpo, logging_steps=1).metrics
    told = [line for line in lines if "reward" in line]
    assert max(line["num_resamples"] for line in told) > 0
    assert all(0 < line["completions/clipped_ratio"] < 1 for line in told)
    for line in told:
        mean = line["rewards/soft_overlong_punishment/mean"]
        assert mean == pytest.approx(-line["completions/mean_length"] / 4)


@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({}, "soft_punish_cache", "is missing"),
        ({"soft_punish_cache": 2.5}, "soft_punish_cache", "whole numbers of tokens, 0 or more"),
        ({"soft_punish_cache": True}, "soft_punish_cache", "whole numbers"),
        ({"soft_punish_cache": -1}, "soft_punish_cache", "0 or more"),
        ({"soft_punish_cache": 1, LONGEST: 0}, LONGEST, "1 or more"),
        ({"soft_punish_cache": 1, "cache": 0}, "cache", "is no option of soft_overlong_punishment"),
        ({"soft_punish_cache": 9}, "soft_punish_cache", "more than the 8 tokens"),
        ({"soft_punish_cache": 0}, "soft_punish_cache", "cannot take effect"),
        ({"soft_punish_cache": 2, LONGEST: 10}, "soft_punish_cache", "up to 8 tokens is punished"),
    ],
)
def test_a_punishment_that_cannot_work_is_refused(options: dict, option: str, said: str) -> None:
    assert said in overlong_faults(options, 8)[option]
    reward = Reward("soft_overlong_punishment", options=options)
    with pytest.raises(InputError, match=f"option {option} "):
        GRPOSettings(rewards=(reward,), loss=PolicyLossSettings(max_completion_length=8))


def test_two_rewards_may_have_one_scorer(tmp_path: Path) -> None:
    """Scorers with options of their own, and functions."""
    wanted = (
        Reward("regex", 1.0, {"regex": "a"}),
        Reward("regex", 0.5, {"regex": "b"}, "second"),
        Reward(f"{OWN}:optioned", 1.0, {"factor": 2}, "twice"),
        Reward(f"{OWN}:optioned", 1.0, {"factor": 3}, "thrice"),
    )
    with Rewarder(wanted, ScoringOptions(), max_completion_length=8) as rewarder:
        rewarder.check([])
        given = answers(["a", "bb", "ab"], [1, 1, 1])
        found = np.stack([rewarder.score(one, given) for one in wanted], axis=1)
    assert found.tolist() == [[1, 0, 2, 3], [0, 1, 4, 6], [1, 1, 4, 6]]
    assert [one.name for one in wanted] == ["regex", "second", "twice", "thrice"]


def test_both_are_told_by_their_names() -> None:
    both = (Reward("regex", 1.0, {"regex": "[a-m]"}), Reward("regex", 0.5, {"regex": "e"}, "e"))
    grpo = dataclasses.replace(CYCLES, rewards=both, scoring=ScoringOptions())
    line = run(adapted(), grpo, max_steps=1, logging_steps=1).metrics[0]
    parts = line["rewards/regex/mean"] + 0.5 * line["rewards/e/mean"]
    assert line["reward"] == pytest.approx(parts)
    assert line["rewards/regex/mean"] > line["rewards/e/mean"]  # other patterns, other scores


def test_options_of_a_recipe_are_those_of_its_reward(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    section = GRPOSection.model_validate(
        {
            "rewards": [
                "math",
                {"name": "regex", "options": {"regex": "a"}},
                {"name": "second", "scorer": "regex", "weight": 2, "options": {"regex": "b"}},
                {"name": "json_schema", "options": {"json_schema": str(schema)}},
                {"name": "own.py:f", "options": {"limit": 3}},
            ]
        }
    )
    assert GRPOSettings.from_section(section, seed=3).rewards == (
        Reward("math"),
        Reward("regex", 1.0, {"regex": "a"}),
        Reward("regex", 2.0, {"regex": "b"}, "second"),
        Reward("json_schema", 1.0, {"json_schema": {"type": "object"}}),
        Reward("own.py:f", 1.0, {"limit": 3}, "f"),
    )


def test_files_of_rewards_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own.py", "schema.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    rewards = [
        "own.py:f",
        {"name": "again", "scorer": "own.py:f"},
        {"name": "form", "scorer": "json_schema", "options": {"json_schema": "schema.json"}},
    ]
    recipe = parse_recipe(
        {
            "base": {"model": "m"},
            "data": {"train": "t"},
            "train": {"method": "grpo"},
            "grpo": {"rewards": rewards},
        }
    )
    found = with_absolute_paths(recipe).grpo.named_rewards
    assert [one.name for one in found] == ["f", "again", "form"]
    assert [one.scorer for one in found] == [f"{tmp_path}/own.py:f"] * 2 + ["json_schema"]
    assert found[2].options == {"json_schema": f"{tmp_path}/schema.json"}
