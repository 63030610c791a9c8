"""What the final evaluation does beside losses and answers is in the time, or said not to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorakit.base.load import load_tokenizer_of
from lorakit.data.named_sets import prepare_named_sets
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.plan.answers import count_answers
from lorakit.plan.duration import Duration, Timing
from lorakit.plan.evaluation_work import EvaluationWork, evaluation_work
from lorakit.plan.plan import plan
from lorakit.plan.prices import load_prices
from lorakit.plan.rows import Sets
from lorakit.recipe import parse_recipe
from lorakit.recipe.sections.evaluate import EvaluateSection
from tests.plan.test_duration import examples

PLACE: dict[str, Any] = {"seed": 0, "token_budget": 512, "packed": True, "at_a_time": 1}


def work_of(sets: Sets, **wanted: Any) -> EvaluationWork:
    return evaluation_work(sets, EvaluateSection(**wanted), **PLACE)


def tokens(several: Any) -> float:
    return sum(one.times * sum(p.tokens for p in one.passes) for one in several)


def test_training_rows_are_measured_beside_in_domain() -> None:
    train, held_out = examples(60), examples(MIN_EXAMPLES, seed=1)
    few = examples(MIN_EXAMPLES - 1, seed=1)
    alone = work_of(Sets(train, np.ones(60), None, {"retention": held_out}), metrics=["loss"])
    beside = work_of(Sets(train, np.ones(60), None, {"in_domain": held_out}), metrics=["loss"])
    too_few = work_of(Sets(train, np.ones(60), None, {"in_domain": few}), metrics=["loss"])
    assert tokens(alone.losses) == held_out.lengths.sum()
    assert sum(len(p.lengths) for one in beside.losses for p in one.passes) == 2 * MIN_EXAMPLES
    assert tokens(too_few.losses) == few.lengths.sum()


def choice_rows(path: Path, count: int, start: int = 0) -> str:
    lines = [
        json.dumps(
            {
                "question": f"Which of these is number {i} of the list of all numbers?",
                "choices": [f"number {i}", "a pear", "two apples", "none"],
                "answer": 0,
            }
        )
        for i in range(start, start + count)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def test_options_of_multiple_choice_are_counted_as_they_are_scored(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "base": {"model": "builtin"},
            "data": {"train": choice_rows(tmp_path / "train.jsonl", 30)},
            "evaluate": {
                "in_domain": choice_rows(tmp_path / "held.jsonl", 25, start=100),
                "metrics": ["loss", "choice_text"],
            },
        }
    )
    tokenizer, config = load_tokenizer_of("builtin")
    sets = Sets.of(
        prepare_named_sets(recipe, tokenizer, config, cache_dir=tmp_path / "cache"), tokenizer
    )
    work = evaluation_work(sets, recipe.evaluate, **PLACE)
    (found,) = work.choices
    assert found.times == 1
    # Each option of each question is one input.
    assert sum(len(p.lengths) for p in found.passes) == 25 * 4
    letters = work_of(sets, metrics=["loss", "choice"])
    # Of letters only the last token differs: one input a question.
    assert sum(len(p.lengths) for one in letters.choices for p in one.passes) == 25


def test_what_nobody_knows_the_time_of_is_said() -> None:
    sets = Sets(examples(60), np.ones(60), None, {"in_domain": examples(30, seed=1)})
    judge = {"url": "http://localhost:1/v1", "model": "judge"}
    judged = work_of(sets, metrics=["loss", "win_rate"], judge=judge)
    assert judged.answers == 30
    assert any("judge" in words and "60 times" in words for words in judged.left_out)
    tasks = work_of(sets, metrics=["loss"], lm_eval={"tasks": ["arc_easy"]})
    assert any("arc_easy" in words for words in tasks.left_out)
    assert any("multiple choice" in w for w in work_of(sets, metrics=["choice"]).left_out)
    assert not work_of(sets, metrics=["loss"]).left_out


def test_sampled_answers_are_counted() -> None:
    sets = Sets(examples(60), np.ones(60), None, {"in_domain": examples(30, seed=1)})
    limits = {"max_generated": 12, "max_new_tokens": 7, "max_batch": 20}
    greedy = {"metrics": ["loss", "math"]} | limits
    sampled = greedy | {"sampling": {"num_samples": 5}}
    assert count_answers(sets, EvaluateSection(metrics=["loss"]), seed=0) is None
    once = count_answers(sets, EvaluateSection(**greedy), seed=0)
    often = count_answers(sets, EvaluateSection(**sampled), seed=0)
    assert once is not None and often is not None
    assert once.to_json() == {
        "greedy": 24,
        "sampled": 0,
        "generated_tokens_at_most": 24 * 7,
    }
    assert often.to_json() == {
        "greedy": 24,
        "sampled": 120,
        "generated_tokens_at_most": 144 * 7,
    }
    assert (work_of(sets, **greedy).num_samples, work_of(sets, **sampled).num_samples) == (0, 5)


def test_a_gpu_without_a_price_has_memory_and_time_and_says_so() -> None:
    recipe = parse_recipe({"base": {"model": "builtin"}, "data": {"train": "no.jsonl"}})
    sets = Sets(examples(40), np.ones(40))
    assert "l40s" not in load_prices().gpu_hour
    planned = plan(recipe, sets=sets, gpu="l40s", timing=Timing(prices=load_prices()))
    found: Duration = planned.duration
    assert planned.peaks.peak > 0
    assert found.seconds is not None
    assert found.cost is None
    assert found.no_cost is not None
    assert "l40s" in found.no_cost
    shown = planned.to_json()
    assert shown["cost"] is None
    assert shown["cost_missing"] == found.no_cost


@pytest.mark.parametrize("num_gpus", [1, 3])
def test_rows_are_laid_out_once_for_all_plans(
    num_gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = Sets(examples(200), np.ones(200))
    options: dict[str, Any] = {"sets": sets, "gpu": "h100", "num_gpus": num_gpus}
    first = parse_recipe({"base": {"model": "builtin"}, "data": {"train": "no.jsonl"}})
    other = parse_recipe(
        {
            "base": {"model": "builtin", "quantization": "nf4"},
            "data": {"train": "no.jsonl"},
            "adapter": {"r": 4},
        }
    )
    plan(first, **options)
    assert len(sets.largest) == 1
    monkeypatch.setattr("lorakit.plan.worst.largest_of_steps", None)  # it would be called
    plan(other, **options)
