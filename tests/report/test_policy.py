"""The report of a policy gradient: no loss that says nothing, samples, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lorakit.report.advice import advice
from lorakit.report.curves import overlaid_curves
from lorakit.report.files import read_run
from lorakit.report.numbers import facts_of
from lorakit.report.page import run_page
from lorakit.report.policy import shown_generations
from lorakit.report.words import amount
from lorakit.run_folder import RunFolder
from lorakit.train.completions import NOT_SCORED
from tests.report.runs import make_run, write_lines


def rewarded(path: Path) -> Path:
    """A run whose lines have rewards."""
    run = RunFolder(make_run(path))

    def change(lines: list[dict[str, Any]]) -> None:
        for number, line in enumerate(lines):
            line.pop("validation_loss", None)
            share = number / len(lines)
            line |= {"loss": 1e-6, "reward": 0.1 + share, "frac_reward_zero_std": 0.2, "kl": 0.01}
            line["completions/mean_length"] = 50 * (1 + share)
            line |= {
                "rewards/math/mean": 0.2,
                "rewards/math/std": 0.4,
                "rewards/tags/mean": share,
                "rewards/tags/std": 0.4,
                "completions/clipped_ratio": 0.25,
                "clip_ratio/region": 0.01,
                "entropy": 1.25,
                "sampling_logp_difference": 3e-7,
                "seconds/rollout": 2.0,
                "seconds/reward": 0.5,
                "seconds/training": 1.0,
            }

    recipe = yaml.safe_load(run.recipe.read_text("utf-8"))
    recipe["train"]["method"] = "grpo"
    recipe["grpo"] = {"rewards": ["math", {"name": "tags", "weight": 0.2}]}
    run.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    lines = [vars(line) for line in read_run(run.path).metrics]
    known = [{k: v for k, v in line.items() if v is not None} for line in lines]
    change(known)
    write_lines(run.metrics, known)
    write_lines(
        run.completions,
        [
            {
                "step": step,
                "label": label,
                "prompt": f"<b>question {step}</b>",
                "reference": "4",
                "completion": f"<i>{label} {step}</i>",
                "reward": None if step == 1 else 0.5,
                "rewards": {"math": 0.0, "own": None},
                "advantage": 0.0,
            }
            for step in range(1, 9)
            for label in ("best", "typical", "worst")
        ],
    )
    return run.path


def test_what_failed_before_its_first_step_is_a_policy_too(tmp_path: Path) -> None:
    """Its completions are those that a reward failed for: nothing was rolled out and scored."""
    run = RunFolder(rewarded(tmp_path / "run"))
    lines = [vars(one) | {"step": 1, "label": NOT_SCORED} for one in read_run(run.path).completions]
    write_lines(run.completions, lines)
    run.metrics.write_text("")
    page = run_page(read_run(run.path))
    assert "<h3>What is asked</h3>" in page and "<h3>What is trained</h3>" not in page
    assert "What was rolled out" not in page


def test_the_page_shows_rewards_and_no_loss(tmp_path: Path) -> None:
    page = run_page(read_run(rewarded(tmp_path / "run")))
    for title in (
        "Reward",
        "Each reward, not weighted",
        "Share in groups without variance",
        "KL from the base, nats per token",
        "Share of clipped ratios",
        "Tokens of a completion",
        "Share of completions cut off",
        "Entropy of trained completions, nats per token",
        "Sampler against training on trained completions, nats per token",
        "Seconds of a logged step",
    ):
        assert f">{title}<" in page
    for told in ("math: 0.200 at step 1, 0.200 at", "rollout: 2.000 at step 1", "tags: 0.000 at"):
        assert told in page
    assert "Loss per trained token" not in page and "near 0 whatever is learned" in page
    shown = [step for step in range(1, 9) if f"&lt;b&gt;question {step}&lt;/b&gt;" in page]
    assert shown == [1, 5, 8] and "<b>question" not in page
    for label in ("best", "typical", "worst"):
        assert [n for n in range(1, 9) if f"&lt;i&gt;{label} {n}&lt;/i&gt;" in page] == shown
        assert f"<dt>{label.capitalize()}, " in page
    assert "no reward: math" in page and "own no opinion" in page
    plain = run_page(read_run(make_run(tmp_path / "sft")))
    assert "Loss per trained token" in plain and "near 0 whatever" not in plain


@pytest.mark.parametrize(
    ("steps", "wanted"), [([], []), ([4], [4]), ([4, 6], [4, 6]), ([1, 2, 3, 9], [1, 3, 9])]
)
def test_generations_are_shown_from_the_first_to_the_last(
    tmp_path: Path, steps: list[int], wanted: list[int]
) -> None:
    run = RunFolder(rewarded(tmp_path / "run"))
    # As runs of before kept them, without a label.
    lines = [
        {"step": n, "prompt": "p", "reference": "r", "completion": "c", "reward": 1, "rewards": {}}
        for n in steps
        for _ in range(2)
    ]
    write_lines(run.completions, lines)
    files = read_run(run.path)
    shown = shown_generations(files)
    assert [one.step for one in shown] == wanted
    assert all(len(one.completions) == 2 for one in shown)
    assert ("What was rolled out" in run_page(files)) == bool(wanted)


def test_the_numbers_tell_the_reward_and_where_the_time_went(tmp_path: Path) -> None:
    run = read_run(rewarded(tmp_path / "run"))
    facts = {one.name: one for one in facts_of(run)}
    rewards = [line.reward for line in run.metrics if line.reward is not None]
    first, last = np.mean(rewards[:5]), np.mean(rewards[-5:])
    assert facts["Reward"].value == f"{amount(first)} \u2192 {amount(last)}"
    assert facts["Time went into"].value == "rollout 57.1 %"
    assert facts["Time went into"].detail == "training 28.6 %, reward 14.3 %"
    assert "validation" not in facts["Training time"].detail
    plain = {one.name for one in facts_of(read_run(make_run(tmp_path / "sft")))}
    assert not plain & {"Reward", "Time went into"}


def test_beside_another_run_rewards_are_drawn_and_no_loss(tmp_path: Path) -> None:
    policy = read_run(rewarded(tmp_path / "run")).metrics
    plain = read_run(make_run(tmp_path / "sft")).metrics
    drawn = {one.name: one for one in overlaid_curves([("A", "a", policy), ("B", "b", plain)])}
    assert [line.label for line in drawn["loss"].lines] == ["B"]
    assert [line.label for line in drawn["reward"].lines] == ["A"]
    alone = overlaid_curves([("A", "a", policy), ("C", "c", policy)])
    assert "loss" not in {one.name for one in alone}


def test_a_loss_that_means_nothing_is_no_reason_for_advice(tmp_path: Path) -> None:
    told = " ".join(one.saw for one in advice(read_run(rewarded(tmp_path / "run"))))
    assert "loss" not in told.lower() and "of the training tokens" not in told
