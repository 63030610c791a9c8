"""What a policy gradient takes: steps as the loop counts them, rollouts, the policy's own pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorakit.base.kv_groups import capacity_of
from lorakit.data.examples import Example, examples_in_memory
from lorakit.plan.plan import plan
from lorakit.plan.policy import longest_prompts, run_length
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.question_stream import QuestionStream
from lorakit.train.settings import LoopSettings
from tests.plan.test_duration import examples, recipe_of


def policy(folder: Path, *, train: dict[str, Any], **grpo: Any) -> Recipe:
    sections: dict[str, Any] = {
        "train": {"method": "grpo"} | train,
        "grpo": {"rewards": ["math"], "num_generations": 4, "max_completion_length": 8} | grpo,
    }
    return recipe_of(folder, **sections)


@pytest.mark.parametrize("epochs", [0.3, 1, 2.5])
@pytest.mark.parametrize(("steps_per_pass", "num_iterations"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("weight", [1.0, 2.0, 0.5])
def test_steps_are_those_of_the_loop(
    tiny_folder: Path, epochs: float, steps_per_pass: int, num_iterations: int, weight: float
) -> None:
    recipe = policy(
        tiny_folder,
        train={"num_train_epochs": epochs, "batch_size": 8},
        generation_batch_size=8 * steps_per_pass,
        num_iterations=num_iterations,
    )
    rows = examples(23)
    repeats = np.full(23, weight)
    found = run_length(recipe, rows, repeats)
    settings = GRPOSettings.from_section(recipe.grpo, seed=0)
    cycle = settings.cycle(8)
    stream = QuestionStream(
        rows, repeats, (), seed=recipe.train.seed, prompts_per_cycle=cycle.prompts
    )
    loop = LoopSettings.from_section(recipe.train, packing=True)
    assert found.steps == stream.count_steps(loop, cycle.num_steps)
    assert found.steps_per_epoch == math.ceil(stream.cycles_per_epoch * cycle.num_steps)
    assert found.trained_tokens == found.steps * 8 * 8
    assert found.trained_tokens < found.tokens <= found.steps * 8 * (8 + 60)


def test_the_longest_prompts_are_found() -> None:
    rows = examples(50)
    lengths = sorted((len(rows[i].input_ids) // 2 for i in range(50)), reverse=True)
    assert [len(prompt) for prompt in longest_prompts(rows, 3)] == lengths[:3]


def test_a_long_prompt_of_a_short_row_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long answers do not hide it, in a set of more rows than are looked at."""
    monkeypatch.setattr("lorakit.plan.policy.ROWS_LOOKED_AT", 3)
    sizes = [(3, 90), (4, 80), (5, 70), (40, 1), (6, 60)]  # of prompt and answer
    rows = examples_in_memory(
        [
            Example(
                np.arange(prompt + answer, dtype=np.int32) + 5,
                np.array([0] * prompt + [1] * answer, np.float32),
            )
            for prompt, answer in sizes
        ]
    )
    assert [len(prompt) for prompt in longest_prompts(rows, 2)] == [40, 6]


def test_more_at_a_time_and_longer_ones_take_more(tiny_folder: Path) -> None:
    sets = Sets(examples(40), np.ones(40))

    def planned(**grpo: Any) -> Any:
        recipe = policy(tiny_folder, train={"max_steps": 4, "batch_size": 32}, **grpo)
        return plan(recipe, sets=sets)

    usual = planned()
    assert usual.steps == 4 and usual.duration.seconds is None
    assert usual.peaks.phases.keys() >= {"rollout", "training_step"}
    told = usual.to_json()["rollouts"]
    assert (told["completions"], told["generated_tokens_at_most"]) == (128, 1024)
    assert told["at_a_time"] == 32
    longer, fewer = planned(max_completion_length=160), planned(max_batch=8)
    assert longer.peaks.phases["training_step"] > usual.peaks.phases["training_step"]
    assert fewer.peaks.phases["rollout"] < usual.peaks.phases["rollout"]
    caches = [one.to_json()["rollouts"]["kv_cache"] for one in (fewer, usual, longer)]
    assert caches[0] * 4 == pytest.approx(caches[1], rel=0.01)
    longest = max(map(len, usual.peaks.rollouts.prompts))
    grown = capacity_of(longest + 160) / capacity_of(longest + 8)
    assert caches[2] == pytest.approx(caches[1] * grown, rel=0.01) and grown > 2
    assert fewer.to_json()["rollouts"]["at_a_time"] == 8


def test_without_rows_the_longest_that_may_be_are_planned(tiny_folder: Path) -> None:
    recipe = policy(tiny_folder, train={"max_steps": 4, "batch_size": 8})
    found = plan(recipe, reads_rows=False)
    assert found.peaks.rollouts is not None and found.peaks.rollouts.assumed
    assert found.peaks.phases["rollout"] > 0 and found.steps == 4 and found.tokens is None


def test_what_a_server_generates_takes_nothing_here(tiny_folder: Path) -> None:
    sets = Sets(examples(40), np.ones(40))

    def planned(**grpo: Any) -> Any:
        return plan(
            policy(tiny_folder, train={"max_steps": 4, "batch_size": 32}, **grpo), sets=sets
        )

    here, there = planned(), planned(use_vllm=True)
    assert "rollout" in here.peaks.phases and "rollout" not in there.peaks.phases
    rest = {name: count for name, count in here.peaks.phases.items() if name != "rollout"}
    assert there.peaks.phases == rest
    told = there.to_json()["rollouts"]
    assert (told["on_server"], told["bytes"], told["completions"]) == (True, None, 128)
    assert any("vLLM server" in note for note in there.notes)
    assert not any("vLLM server" in note for note in here.notes)
