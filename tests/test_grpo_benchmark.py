"""The script that shows what GRPO is worth: its page says what was measured, and a run runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lorakit import tasks
from lorakit.builtin import sums
from lorakit.evaluate.statistics import Comparison
from lorakit.train.outcome import TrainOutcome

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The script, and what runs a seed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    stages = importlib.import_module("grpo_stages")
    return importlib.import_module("grpo_builtin"), stages


def outcome(metrics: list[dict[str, Any]], best_step: int | None = None) -> TrainOutcome:
    given = dict.fromkeys(TrainOutcome.__dataclass_fields__) | {"steps": len(metrics)}
    return TrainOutcome(**(given | {"metrics": metrics, "best_step": best_step}))


def seed_of(stages: ModuleType, before: list[float], after: list[float]) -> Any:
    """A seed with these shares of right answers to two short and two long sums."""
    digits = np.array([2, 2, 3, 3])

    def answers(right: list[float]) -> Any:
        shares = np.array(right)
        return stages.Answers(digits, shares, (shares > 0.5).astype(float), 0.25, 0.9, np.nan)

    at = {"base": answers([0.0] * 4), "sft": answers(before), "grpo": answers(after)}
    kept = (Comparison(1.0, 1.25, 0.25, (0.125, 0.375), 100), "worse")
    losses = [{"validation_loss": loss} for loss in (0.9, 0.3, 0.4)]
    rewards = [
        {"step": step, "rewards/math/mean": step / 10, "completions/mean_length": 30.0 + step}
        for step in (1, 2, 3)
    ]
    return stages.Seed(
        {"sft": outcome([*losses, {"validation_loss": None}], 2), "grpo": outcome(rewards)},
        {stage: dict.fromkeys(stages.SETS, one) for stage, one in at.items()},
        {"sft": kept, "grpo": kept},
        {"sft": 60.0, "grpo": 70.0, "measuring": 5.0, "processor": 200.0},
    )


def test_the_page_says_what_was_measured(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, stages = modules
    monkeypatch.setattr("sys.argv", ["grpo_builtin.py"])
    seeds = {7: seed_of(stages, [1, 0.5, 0, 0], [1, 1, 1, 0.5])}
    assert stages.gain(seeds[7], "in_domain").difference == 0.5
    assert stages.gain(seeds[7], "in_domain", 3).difference == 0.75
    assert stages.converged(seeds[7]) == (0.9, 0.3, 0.4)
    page = script.section(seeds)
    assert "| 7 | in_domain | 0.0% | 37.5% | 87.5% | +50.0 points" in page
    assert "| 7 | of 3 digits | 0.0% | 0.0% | 75.0% | +75.0 points" in page
    assert "| 7 | in_domain | grpo | 25.0% | 90.0% | none |" in page
    assert "4 (2) | 0.9000, 0.3000, 0.4000 | +0.250 (+0.125 to +0.375), worse" in page
    assert "at most\n135 s" in page or "at most 135 s" in page
    panels = script.plot(seeds).axes
    assert panels[0].lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert panels[0].lines[1].get_ydata().tolist() == [0.375, 0.875]
    assert panels[1].lines[0].get_ydata().tolist() == [31, 32, 33]


def test_ways_and_tags_are_told_apart(modules: tuple[ModuleType, ModuleType]) -> None:
    _, stages = modules
    rows = sums.sums_sets()["sums_validation"]
    texts = [row["messages"][1]["content"] for row in rows]
    found = [stages.BY_COLUMNS.match(text) is not None for text in texts]
    assert found == [row["way"] == sums.COLUMNS for row in rows]
    cut = [text.removesuffix("</answer>") for text in texts]
    score = tasks.scorer("regex").scores
    assert score(texts, texts, stages.SCORING).all()
    assert not score(cut, texts, stages.SCORING).any()


def test_no_question_is_asked_twice(modules: tuple[ModuleType, ModuleType]) -> None:
    """Else the curve would not be that of new questions."""
    _, stages = modules
    loop = stages.grpo_loop(1)
    per_step = stages.grpo_settings().prompts_per_cycle(loop.batch_size)
    assert loop.max_steps * per_step <= sums.NUM_ROWS["sums_train"]


@pytest.mark.slow  # 2,700 answers
def test_a_seed_goes_its_way(modules: tuple[ModuleType, ModuleType]) -> None:
    script, stages = modules
    few = {"max_steps": 2, "batch_size": 16}
    seed = stages.one_seed(1, sft=few | {"eval_steps": 1}, grpo=few)
    assert seed.stages["sft"].steps == seed.stages["grpo"].steps == 2
    for stage in ("base", "sft", "grpo"):
        for name in stages.SETS:
            answers = seed.answers[stage][name]
            assert len(answers.right) == sums.NUM_ROWS[f"sums_{name}"]
            assert set(np.unique(answers.right * stages.SAMPLES)) <= set(range(stages.SAMPLES + 1))
    assert "| 1 | in_domain |" in script.section({1: seed})
