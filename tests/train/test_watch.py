"""What is seen while a run trains: each trouble once, by its watcher; no sound run is accused."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lorakit
from lorakit.errors import RecipeError
from lorakit.tasks import ScoringOptions
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.loop import train
from lorakit.train.metrics import read_metrics
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.rewards import Reward
from lorakit.train.settings import LoopSettings
from lorakit.train.watch import watchers
from tests.train import grpo_runs, runs
from tests.train.watched_lines import FLAWED, SOUND, Run, flat, likelihood, policy

CASES = [
    pytest.param(name, run, id=f"{name}-{number}")
    for name, many in FLAWED.items()
    for number, run in enumerate(many)
]


def test_every_watcher_has_a_flawed_run() -> None:
    assert {one.ID for one in watchers()} == set(FLAWED)
    for one in watchers():
        told = {run.severity for run in FLAWED[one.ID]}
        assert told == set(one.SEVERITIES)
        assert {"sft" if run.grpo is None else "grpo" for run in FLAWED[one.ID]} == {*one.METHODS}


@pytest.mark.parametrize(("name", "run"), CASES)
def test_the_trouble_is_seen_once_and_nothing_else(name: str, run: Run) -> None:
    at = {
        line["step"]: said.findings
        for line, said in zip(run.lines, run.told(), strict=True)
        if said.findings
    }
    ((step, (finding,)),) = at.items()
    assert (finding.id, finding.severity) == (name, run.severity)
    assert finding.places == [{"step": step}]
    assert json.loads(json.dumps(finding.to_json())) == finding.to_json()


@pytest.mark.parametrize(("name", "run"), CASES)
def test_a_run_that_goes_on_says_the_rest(name: str, run: Run) -> None:
    """Wherever it was stopped, both processes together say what one would have."""
    whole = run.with_findings()
    places = [i for i, line in enumerate(whole.lines) if "findings" in line]
    for start in {1, *places, *(i + 1 for i in places), len(whole.lines) - 1}:
        said = [one.to_json() for one in whole.told(start)]
        assert said == [
            {k: v for k, v in line.items() if k == "findings"} for line in whole.lines[start:]
        ]


@pytest.mark.parametrize(("name", "run"), CASES)
def test_what_is_silenced_is_counted_once(name: str, run: Run) -> None:
    said = [one.to_json() for one in run.told(silence=[name])]
    assert [one for one in said if one] == [{"silenced": {name: 1}}]
    # A run that goes on after it counts nothing again, nor tells it when it is silenced no more.
    counted = [line | one for line, one in zip(run.lines, said, strict=True)]
    place = next(i for i, one in enumerate(said) if one)
    assert not any(one.to_json() for one in replace(run, lines=counted).told(place + 1))


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_run_is_left_alone(name: str) -> None:
    assert [one.findings for one in SOUND[name].told() if one.findings] == []


def test_groups_without_variance_are_seen_after_one_window() -> None:
    """Nothing is compared with how it was at first."""
    run = policy(frac_reward_zero_std=(0.9, 0.9))
    generations = [line["step"] for line in run.lines if "reward" in line]
    steps = [line["step"] for line, one in zip(run.lines, run.told(), strict=True) if one.findings]
    assert steps == [generations[9]]


@pytest.mark.parametrize(("rate", "words"), [(2e-4, "to 0.0001"), (2e-5, "2e-05 already")])
def test_a_low_rate_is_not_lowered_further(rate: float, words: str) -> None:
    found = [one for said in likelihood(flat, rate=rate).told() for one in said.findings]
    assert len(found) == 1 and words in found[0].message
    assert "in the first 50 steps" in found[0].message


def _at(noise: np.ndarray, step: float) -> float:
    return float(noise[int(step)])


def test_an_uneven_loss_is_no_rise() -> None:
    """A thousand windows of noise: rows of very different difficulty, and nothing learned."""
    accused = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).lognormal(0, 0.5, 1000)
        told = likelihood(partial(_at, noise), num_steps=1000).told()
        accused += any(one.id == "loss-rises" for said in told for one in said.findings)
    assert accused == 0


STANDING = LoopSettings(
    max_steps=54,
    batch_size=6,  # all of them: every step is the same
    learning_rate=1e-9,
    warmup_steps=0,
    micro_batch_tokens=48,
    save_steps=45,
    lr_scheduler_type="constant",
)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the reporter warned of; other tests may have let lower levels through."""
    return [one.message for one in caplog.records if one.levelno == logging.WARNING]


def test_a_run_says_it_writes_it_and_goes_on_after_it(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is learned at such a rate."""

    def goes_on(**options: Any) -> list[dict[str, Any]]:
        """From before the place, as if the end was never saved."""
        shutil.rmtree(tmp_path / "a" / "checkpoints" / "step-54")
        settings = replace(STANDING, **options)
        model = runs.adapted_model(tiny_folder)
        train(model, runs.ragged_examples(6), settings, run_dir=tmp_path / "a", resume=True)
        return read_metrics(tmp_path / "a" / "metrics.jsonl")

    with caplog.at_level(logging.WARNING, "lorakit.train.reporter"):
        model = runs.adapted_model(tiny_folder)
        outcome = train(model, runs.ragged_examples(6), STANDING, run_dir=tmp_path / "a")
    (said,) = warnings_of(caplog)
    assert said.startswith("warning: the loss did not fall in the first 50 steps")
    assert said.endswith("(step 50) [loss-does-not-fall]")
    whole = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [line["step"] for line in whole if "findings" in line] == [50]
    (found,) = outcome.findings
    assert outcome.summary()["findings"] == [found]
    assert found["id"] == "loss-does-not-fall" and found["where"] == "step 50"
    caplog.clear()
    silent = goes_on(silence=("loss-does-not-fall",))
    assert [one["silenced"] for one in silent if "silenced" in one] == [{"loss-does-not-fall": 1}]
    (said,) = warnings_of(caplog)
    assert said == "check.silence leaves out: 1 finding of loss-does-not-fall"
    (place,) = [i for i, line in enumerate(whole) if "findings" in line]
    for ours, theirs in ((silent, whole[:place]), (goes_on(), whole)):
        assert runs.logged(ours)[: len(theirs)] == runs.logged(theirs)


def test_a_policy_says_it(caplog: pytest.LogCaptureFixture) -> None:
    """All completions have the reward, so nothing varies."""
    alike = GRPOSettings(
        rewards=(Reward("regex"),),
        scoring=ScoringOptions(regex=""),
        num_generations=2,
        loss=PolicyLossSettings(max_completion_length=1),
    )
    with caplog.at_level(logging.WARNING, "lorakit.train.reporter"):
        outcome = grpo_runs.run(
            grpo_runs.adapted(), alike, max_steps=12, batch_size=2, logging_steps=1
        )
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("warning: 100% of the completions are in groups")
    assert said.endswith("(step 10) [groups-without-variance]")
    assert [one["id"] for one in outcome.findings] == ["groups-without-variance"]


def test_ids_that_train_sft_may_silence_are_those_of_watchers() -> None:
    names = [one.ID for one in watchers() if "sft" in one.METHODS]
    assert lorakit.SFTConfig(silence=names).silence == names
    with pytest.raises(RecipeError, match="did you mean loss-does-not-fall"):
        lorakit.SFTConfig(silence=["loss-does-not-fal"])
    with pytest.raises(RecipeError, match="few-rows"):  # before training nothing is linted there
        lorakit.SFTConfig(silence=["few-rows"])
