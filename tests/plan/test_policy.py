"""What a policy gradient takes: steps as the loop counts them, rollouts, the policy's own pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from lorakit.adapters.attach import attach_adapter
from lorakit.base.kv_groups import capacity_of
from lorakit.base.load import load_base
from lorakit.cli.plan_words import show_duration
from lorakit.data.examples import Example, examples_in_memory
from lorakit.engine.passes import Pass
from lorakit.plan.duration import NOT_TIMED, Duration, Timing
from lorakit.plan.plan import plan
from lorakit.plan.policy import prompt_lengths, run_length
from lorakit.plan.policy_work import policy_work
from lorakit.plan.rows import Sets
from lorakit.plan.time import Events, predict_policy
from lorakit.recipe import Recipe
from lorakit.train.choices import Division
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import LossType
from lorakit.train.policy_worst import PolicyShape, longest_first
from lorakit.train.question_stream import QuestionStream
from lorakit.train.samplers import sample_here
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


@dataclass(frozen=True)
class Clock:
    """A machine whose seconds are what is counted."""

    decode_batch: int = 3
    how: str = "made up"
    load: float = 1000.0
    step: float = 0.5
    checkpoint: float = 0.0

    def micro_batch(self, one: Pass) -> float:
        return float(one.tokens)

    def loss_pass(self, one: Pass) -> float:
        return 0.01 * one.tokens

    def decode(self, batch: int) -> float:
        return 2.0 + batch

    def formulas(self, count: int) -> float:
        return 0.0


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("steps_per_pass", "num_iterations"), [(1, 1), (2, 1), (1, 3)])
def test_the_time_at_most_is_that_of_full_completions(
    tiny_folder: Path, beta: float, steps_per_pass: int, num_iterations: int
) -> None:
    """Counted by hand, over the very questions that the run asks."""
    recipe = policy(
        tiny_folder,
        train={"num_train_epochs": 1, "batch_size": 8},
        generation_batch_size=8 * steps_per_pass,
        num_iterations=num_iterations,
        beta=beta,
    )
    rows, repeats = examples(24), np.ones(24)
    length = run_length(recipe, rows, repeats)
    planned = plan(recipe, sets=Sets(rows, repeats), reads_rows=False)
    rollouts = planned.peaks.rollouts
    assert rollouts is not None and rollouts.completions == 96  # 24 questions, 4 of each
    division = Division(64, "none", None, packed=True, dense_copies=False)
    work = policy_work(recipe, rows, repeats, length, replace(rollouts, at_a_time=5), division)
    found = predict_policy(work, Events(), Clock())
    prompts = int((rows.lengths - rows.trained_lengths).sum())
    passed = 4 * prompts + 96 * 8  # tokens of one pass over all completions
    looks = (beta > 0) + (steps_per_pass * num_iterations > 1)
    steps = 0.5 * length.steps
    expected = num_iterations * passed + steps + looks * 0.01 * passed
    assert found.policy_at_most == pytest.approx(expected)
    # Five at a time, of which the machine was timed with three: two rounds of each, and the rest.
    whole, rest = divmod(8 * steps_per_pass, 5)
    rounds = whole * 2 * 5.0 + {0: 0.0, 1: 3.0, 3: 5.0}[rest]
    assert found.rollouts_at_most == pytest.approx(
        0.01 * prompts + 96 // (8 * steps_per_pass) * 8 * rounds
    )
    assert found.training == 0 and found.total == 1000
    assert (
        found.at_most == pytest.approx(1000 + found.policy_at_most + found.rollouts_at_most)
        and found.expected == found.at_most
    )
    told = Duration(planned.duration.flops, found).to_json()
    assert told["seconds"] is None and told["seconds_at_most"] == round(found.at_most, 3)


@pytest.mark.parametrize("where", ["here", "on a GPU", "on a server"])
def test_a_policy_has_a_time_at_most(
    tiny_folder: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = policy(
        tiny_folder,
        train={"max_steps": 4, "batch_size": 8},
        use_vllm=where == "on a server",
    )
    rows = examples(23)
    planned = plan(
        recipe,
        sets=Sets(rows, np.ones(23)),
        reads_rows=False,
        gpu="h100" if where == "on a GPU" else None,
        timing=NOT_TIMED if where == "here" else Timing(times_machine=True),
    )
    told = planned.to_json()
    assert told["seconds"] is None and told["flops"]["total"] > 0
    show_duration(planned.duration)
    shown = " ".join(capsys.readouterr().out.split())
    assert "rewards" in told["seconds_left_out"] or where == "here"
    if where == "here":
        assert told["seconds_at_most"] is None and "(not known: this machine was not" in shown
        return
    assert told["seconds_at_most"] > 0 and "time at most " in shown
    assert ("vLLM server writes" in shown) == (where == "on a server")
    seconds = planned.duration.seconds
    assert seconds is not None and seconds.rollouts_at_most is not None
    assert (seconds.rollouts_at_most > 0) == (where == "on a GPU")


def test_prompts_are_measured() -> None:
    rows = examples(50)
    lengths = [len(rows[i].input_ids) // 2 for i in range(50)]
    assert prompt_lengths(rows).tolist() == lengths


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
    assert prompt_lengths(rows).tolist() == [3, 4, 5, 40, 6]
    assert longest_first(prompt_lengths(rows), 2)[:2] == [3, 4]


class SeenError(Exception):
    """Raised where enough was seen."""


@pytest.mark.parametrize("loss_type", get_args(LossType))
@pytest.mark.parametrize(("packing", "lora_dropout"), [(True, 0.0), (True, 0.1), (False, 0.0)])
def test_the_micro_batches_are_those_that_the_loop_tries_first(
    loss_type: str,
    packing: bool,
    lora_dropout: float,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of more questions than a generation asks, and of fewer."""
    looked: list[dict[str, Any]] = []

    def look(shape: PolicyShape, kept: Any) -> None:
        known = {name: getattr(shape, name) for name in PolicyShape.__dataclass_fields__}
        looked.append(known | {"prompt_lengths": shape.prompt_lengths.tolist()})
        raise SeenError

    monkeypatch.setattr("lorakit.plan.policy.worst_answered", look)
    monkeypatch.setattr("lorakit.train.policy_first.worst_answered", look)
    recipe = policy(
        tiny_folder,
        train={"max_steps": 4, "batch_size": 16, "micro_batch_tokens": 200},
        loss_type=loss_type,
        num_iterations=2,
        generation_batch_size=32,
        **({"epsilon_high": 5.0} if loss_type == "cispo" else {}),
    )
    recipe.data.packing, recipe.adapter.lora_dropout = packing, lora_dropout
    loop = LoopSettings.from_section(recipe.train, packing=packing)
    grpo = GRPOSettings.from_section(recipe.grpo, seed=0)
    for count in (3, 40):
        rows = examples(count)
        with pytest.raises(SeenError):
            plan(recipe, sets=Sets(rows, np.ones(count)))
        model, tokenizer = load_base(tiny_folder, dtype=torch.float32, device="cpu")
        attach_adapter(model, recipe.adapter)
        with pytest.raises(SeenError):
            train_grpo(model, tokenizer, rows, loop, grpo, sample=sample_here)
        ours, theirs = looked[-2:]
        assert ours == theirs
    assert ours["shared"] == (packing and not lora_dropout)


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_is_rehearsed_as_it_is_laid_out(packing: bool, tiny_folder: Path) -> None:
    """Its largest micro-batch is full, of prompts that stand in the row once if they may."""
    train = {"max_steps": 4, "batch_size": 64, "micro_batch_tokens": 200}
    recipe = policy(tiny_folder, train=train)
    recipe.data.packing = packing
    shape = plan(recipe, sets=Sets(examples(40), np.ones(40))).peaks.shape
    assert 160 < shape.num_tokens <= 200
    assert bool(shape.prompts) == packing == (sum(shape.lengths) > 200)


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
