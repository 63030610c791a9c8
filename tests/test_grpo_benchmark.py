"""The script that shows what GRPO is worth: its page says what was measured, and a run runs."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lorakit import tasks
from lorakit.builtin import sums

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The script, and what runs a seed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    stages = importlib.import_module("grpo_stages")
    return importlib.import_module("grpo_builtin"), stages


def seed_of(stages: ModuleType, before: list[float], after: list[float]) -> Any:
    """A seed with these shares of right answers to two short and two long sums."""
    short, long = sums.DIGITS

    def answers(right: list[float]) -> Any:
        greedy = [float(share > 0.5) for share in right]
        return stages.Answers([short, short, long, long], right, greedy, 0.25, None, 0.9)

    at = {"base": answers([0.0] * 4), "sft": answers(before), "grpo": answers(after)}
    kept = stages.Retention(0.25, 0.125, 0.375, "worse")
    losses = [{"step": 2 * n, "validation_loss": loss} for n, loss in enumerate((0.9, 0.3, 0.4))]
    rewards = [
        {"step": step, "rewards/math/mean": step / 10, "frac_reward_zero_std": step / 4}
        for step in (1, 2, 3)
    ]
    return stages.Seed(
        {"sft": [*losses, {"step": 5}], "grpo": rewards},
        2,
        {stage: dict.fromkeys(stages.SETS, one) for stage, one in at.items()},
        {"sft": kept, "grpo": kept},
        {"sft": 60.0, "grpo": 70.0, "measuring": 5.0, "processor": 200.0},
    )


def test_the_page_says_what_was_measured(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script, stages = modules
    monkeypatch.setattr("sys.argv", ["grpo_builtin.py"])
    seed = seed_of(stages, [1, 0.5, 0, 0], [1, 1, 1, 0.5])
    seed.write(tmp_path / "seed-7.json")
    seeds = {7: script.kept_seed(7, argparse.Namespace(keep=tmp_path))}
    assert seeds[7] == seed
    _, long = sums.DIGITS
    assert stages.gain(seed, "in_domain").difference == 0.5
    assert stages.gain(seed, "in_domain", long).difference == 0.75
    page = script.section(seeds)
    assert "| 7 | in_domain | 0.0% | 37.5% | 87.5% | +50.0 points" in page
    assert f"| 7 | of {long} digits | 0.0% | 0.0% | 75.0% | +75.0 points" in page
    assert "| 7 | in_domain | grpo | 25.0% | none | 90.0% |" in page
    assert "5 (2) | 0.9000, 0.3000, 0.4000 | +0.250 (+0.125 to +0.375), worse" in page
    assert "at most 200 s of processor time" in " ".join(page.split())
    panels = script.plot(seeds).axes
    assert panels[0].lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert panels[0].lines[1].get_ydata().tolist() == [0.375, 0.875]
    assert panels[1].lines[0].get_ydata().tolist() == [0.25, 0.5, 0.75]


def test_what_is_counted_is_there(modules: tuple[ModuleType, ModuleType]) -> None:
    _, stages = modules
    rows = sums.sums_sets()["sums_validation"]
    texts = [row["messages"][1]["content"] for row in rows]
    needed = [stages.needs_carry(row["messages"][0]["content"]) for row in rows]
    carried = [stages.CARRY.search(text) is not None for text in texts]
    assert carried == [
        need and row["way"] == sums.CARRIED for need, row in zip(needed, rows, strict=True)
    ]
    assert any(carried) and not all(needed)
    cut = [text.removesuffix("</answer>") for text in texts]
    score = tasks.scorer("regex").scores
    assert score(texts, texts, stages.SCORING).all()
    assert not score(cut, texts, stages.SCORING).any()


def test_no_question_is_asked_twice(modules: tuple[ModuleType, ModuleType]) -> None:
    """Else the curve would not be that of new questions."""
    _, stages = modules
    loop = stages.grpo_loop(1)
    per_step = stages.grpo_settings().cycle(loop.batch_size).prompts
    assert loop.max_steps * per_step <= sums.NUM_ROWS["sums_train"]
