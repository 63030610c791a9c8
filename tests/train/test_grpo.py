"""The policy gradient's loop: resume anywhere, an unchanged base, what it learns and refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import attached
from lorakit.base.load import load_base
from lorakit.data.examples import Example, examples_in_memory
from lorakit.errors import (
    AdapterError,
    CheckpointError,
    DataError,
    InputError,
    InterruptionError,
    NonFiniteError,
)
from lorakit.recipe import LoraConfig
from lorakit.tasks import ScoringOptions
from lorakit.tasks import code as code_module
from lorakit.train import generation as generation_module
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.reward_functions import Answers
from lorakit.train.rewards import Reward, Rewarder
from lorakit.train.samplers import sample_here
from tests import families, tolerances
from tests.train import runs
from tests.train.grpo_runs import (
    CYCLES,
    LOOP,
    STEPS_PER_CYCLE,
    TOKENIZER,
    adapted,
    assert_same_run,
    later_than,
    logged,
    questions,
    run,
)

NUM_STEPS = LOOP.max_steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """Three cycles in one go, every step saved."""
    folder = tmp_path_factory.mktemp("grpo") / "run"
    outcome = run(adapted(lora_dropout=0.1), run_dir=folder)
    assert outcome.steps == NUM_STEPS == 3 * STEPS_PER_CYCLE
    return folder, logged(outcome.metrics)


# Between two cycles and inside of one; the rest is slow.
@pytest.mark.parametrize(
    "step",
    [
        step if step in (4, 6) else pytest.param(step, marks=pytest.mark.slow)
        for step in range(1, NUM_STEPS)
    ],
)
def test_resume_from_every_step_of_three_cycles(
    step: int, whole: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    folder, lines = whole
    again = tmp_path / "run"
    shutil.copytree(folder, again, ignore=later_than(step))
    outcome = run(adapted(lora_dropout=0.1), run_dir=again, resume=True)
    assert logged(outcome.metrics) == lines
    assert_same_run(again, folder)


def test_how_many_are_generated_at_a_time_is_replayed(
    whole: tuple[Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = whole
    chosen = json.loads((folder / "choices.json").read_text())
    asked: list[tuple[int | None, int | None]] = []

    def noted(model, tokenizer, one, *, max_dense_bytes):
        asked.append((one.max_batch, max_dense_bytes))
        return sample_here(model, tokenizer, one, max_dense_bytes=max_dense_bytes)

    monkeypatch.setattr("lorakit.train.grpo.sample_here", noted)
    monkeypatch.setattr("lorakit.train.setup.free_bytes", lambda device: 0)
    again = tmp_path / "run"
    shutil.copytree(folder, again, ignore=later_than(4))
    run(adapted(lora_dropout=0.1), run_dir=again, resume=True)
    assert set(asked) == {(chosen["completions_at_a_time"], chosen["dense_bytes"])}
    asked.clear()
    run(adapted(), max_steps=1)
    run(adapted(), dataclasses.replace(CYCLES, max_batch=3), max_steps=1)
    assert asked == [(1, 0), (3, 0)] and chosen["completions_at_a_time"] > 1


def test_a_checkpoint_holds_the_cycle_it_is_in(whole: tuple[Path, list[dict]]) -> None:
    folder, _ = whole
    for step in range(1, NUM_STEPS + 1):
        saved = read_checkpoint(folder / f"checkpoints/step-{step}")
        inside = step % STEPS_PER_CYCLE != 0
        assert ("rollouts" in saved.tensors) == inside
        if inside:
            rollouts = saved.tensors["rollouts"]
            assert rollouts["rewards"].shape == (8, 2) and rollouts["lengths"].shape == (8,)
            assert rollouts["old_logprobs"].shape == rollouts["token_ids"].shape
            assert saved.state["method"]["rollouts"]["cycle"] == step // STEPS_PER_CYCLE


def test_what_is_told(whole: tuple[Path, list[dict]]) -> None:
    _, lines = whole
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    for line in lines:
        assert {"kl", "entropy", "ratio", "clip_ratio/region"} <= line.keys()
        # Dropout is no part of the difference between the sampler and a training pass.
        assert 0 < line["sampling_logp_difference"] < tolerances.LOGPROBS_FLOAT32
    rewarded = [line for line in lines if "reward" in line]
    assert len(rewarded) == 3  # a line without a generation has no reward
    for line in rewarded:
        parts = line["rewards/regex/mean"] + 0.5 * line["rewards/token_f1/mean"]
        assert line["reward"] == pytest.approx(parts)
        assert 0 < line["completions/mean_length"] <= 4


def test_a_signal_while_rolling_out(
    whole: tuple[Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lines = whole
    again = tmp_path / "run"
    plain = generation_module.roll_out

    def interrupted(*arguments, cycle: int, stop_if_asked, **options):
        def send() -> None:
            if cycle == 1 and again.joinpath("checkpoints").is_dir():
                os.kill(os.getpid(), signal.SIGTERM)
                cycle_of.append(cycle)
            stop_if_asked()

        return plain(*arguments, cycle=cycle, stop_if_asked=send, **options)

    cycle_of: list[int] = []
    monkeypatch.setattr(generation_module, "roll_out", interrupted)
    with pytest.raises(
        InterruptionError, match="stopped by SIGTERM after step 4 of 12; saved"
    ) as e:
        run(adapted(lora_dropout=0.1), run_dir=again, save_steps=99)
    assert e.value.exit_code == 143 and cycle_of == [1]  # at the first token
    monkeypatch.undo()
    outcome = run(adapted(lora_dropout=0.1), run_dir=again, resume=True, save_steps=99)
    assert logged(outcome.metrics) == lines
    assert_same_run(again, folder)


def test_another_run_is_not_gone_on_from(whole: tuple[Path, list[dict]], tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(whole[0], again)
    other = dataclasses.replace(CYCLES, rewards=(Reward("regex"), Reward("token_f1", 0.4)))
    with pytest.raises(CheckpointError, match=r"belongs to another run.*method\.grpo\.rewards"):
        run(adapted(lora_dropout=0.1), other, run_dir=again, resume=True)


@pytest.mark.parametrize(
    ("quantization", "adapter"),
    [("none", {}), ("nf4", {"use_dora": True}), ("none", {"init_lora_weights": "pissa"})],
)
def test_the_base_is_not_changed(quantization: str, adapter: dict, tiny_folder: Path) -> None:
    model, tokenizer = load_base(tiny_folder, quantization=quantization, device="cpu")
    attach_adapter(model, LoraConfig(r=4, **adapter))
    before, trained = frozen_sha256(model), runs.values(model)
    loop = dataclasses.replace(LOOP, max_steps=2, save_steps=None)
    train_grpo(model, tokenizer, questions(), loop, CYCLES)
    assert frozen_sha256(model) == before
    moved = [n for n, value in runs.values(model).items() if not torch.equal(value, trained[n])]
    assert len(moved) == len(trained)


def frozen_sha256(model: PreTrainedModel) -> str:
    """Over every tensor that does not train, stored ones as they are stored."""
    digest = hashlib.sha256()
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if id(tensor) not in trained:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()


def test_it_learns_what_is_rewarded() -> None:
    model = families.build("llama", initializer_range=0.2)
    attach_adapter(model, LoraConfig(r=4, lora_alpha=8))
    settings = GRPOSettings(
        rewards=(Reward("regex"),),
        scoring=ScoringOptions(regex="[a-z]"),
        loss=PolicyLossSettings(max_completion_length=1),
    )
    loop = {"max_steps": 14, "batch_size": 128, "learning_rate": 6e-2, "logging_steps": 1}
    loop |= {"lr_scheduler_type": "constant", "micro_batch_tokens": 4096}
    lines = run(model, settings, **loop).metrics
    rewards = [line["reward"] for line in lines]
    # Each mean is that of 384 answers: chance alone would move their difference by 0.035.
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.15, rewards
    # One step a cycle: the policy that learns is the one that sampled, in the same numerics.
    assert all(line["ratio"] == 1 and line["clip_ratio/region"] == 0 for line in lines)
    worst = max(line["sampling_logp_difference"] for line in lines)
    assert worst < tolerances.LOGPROBS_FLOAT32


def test_a_tensor_that_gets_no_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first step that passes anything: in the first cycles here no group varies."""
    model = adapted()
    layer = attached(model).modules["model.layers.0.self_attn.q_proj"]
    layer.register_forward_hook(lambda module, inputs, output: output.detach())
    cycles = 0

    def score(rewarder: Rewarder, reward: Reward, answers: Answers, *_) -> np.ndarray:
        nonlocal cycles
        cycles += 1
        return np.arange(len(answers.completions)) % 2 * float(cycles > 2)

    monkeypatch.setattr(Rewarder, "score", score)
    settings = GRPOSettings(
        rewards=(Reward("regex"),),
        scoring=ScoringOptions(regex="x"),
        num_generations=2,
        loss=PolicyLossSettings(max_completion_length=2),
    )
    with pytest.raises(AdapterError, match=r"got no gradient .*layers\.0\.self_attn\.q_proj"):
        run(model, settings)
    assert cycles == 3


def test_the_cut_into_micro_batches_changes_only_the_last_bits() -> None:
    outcomes = []
    for budget, packing in ((4096, True), (1, True), (64, False)):
        model = adapted(lora_dropout=0.1)
        run(model, max_steps=3, micro_batch_tokens=budget, packing=packing)
        outcomes.append(runs.values(model))
    for other in outcomes[1:]:
        for name, value in outcomes[0].items():
            error = tolerances.relative_error(other[name], value)
            assert error < tolerances.AFTER_ADAM_FLOAT32, name


def test_dropout_is_in_ratios_on_both_sides_and_in_corrections_on_none() -> None:
    """At the first step of a cycle of four, ratios are 1 although values are dropped."""
    lines = run(adapted(lora_dropout=0.5), max_steps=5, logging_steps=1).metrics
    for first in (0, 4):
        assert lines[first]["ratio"] == pytest.approx(1, abs=1e-6)
    assert lines[3]["ratio"] != pytest.approx(1, abs=1e-3)
    for line in lines:  # the sampler drops nothing
        assert line["sampling_logp_difference"] < tolerances.LOGPROBS_FLOAT32
        assert line["importance_sampling_ratio"] == pytest.approx(1, abs=1e-4)
    measured = dataclasses.replace(CYCLES, rollout_importance_sampling_mode=None)
    for dropout in (0.0, 0.5):
        told = run(adapted(lora_dropout=dropout), measured, max_steps=1).metrics[0]
        assert ("sampling_logp_difference" in told) == (dropout == 0)


@pytest.mark.parametrize(
    ("grpo", "loop", "said"),
    [
        ({"num_generations": 3}, {}, "no whole groups of num_generations 3"),
        ({}, {"eval_steps": 2}, "eval_steps needs a validation"),
        ({}, {"early_stopping_patience": 1}, "early_stopping_patience needs a validation"),
        ({}, {"save_steps": 1}, "save_steps needs a run folder"),
        ({"loss": PolicyLossSettings(max_completion_length=250)}, {}, "more than the model's"),
    ],
)
def test_what_cannot_work_is_refused(grpo: dict, loop: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(adapted(), dataclasses.replace(CYCLES, **grpo), **loop)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rewards": ()}, "no reward is given; possible: .*exact_match"),
        ({"rewards": (Reward("regexp"),)}, "'regexp' is not known; did you mean regex"),
        ({"rewards": (Reward("regex"), Reward("regex"))}, "two rewards are named 'regex'"),
        ({"rewards": (Reward("math", options={"regex": "x"}),)}, "no option 'regex'; possible: no"),
        (
            {"rewards": (Reward("soft_overlong_punishment"),)},
            "option soft_punish_cache is missing; give the tokens",
        ),
        ({"rewards": (Reward("content"),)}, "other rows of its set.*Possible rewards: code"),
        ({"rewards": (Reward("regex", float("inf")),)}, "give a number"),
        ({"num_generations": 1, "num_iterations": 0}, "num_generations 1 .*num_iterations 0"),
        ({"temperature": 0}, "all of a group would be the same"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"scale_rewards": "groups"}, "possible: group, batch, none"),
        ({"rollout_importance_sampling_mode": "mask"}, "possible: token_truncate"),
        ({"rollout_importance_sampling_clip_min": 5.0}, "clip_min 5.0 with clip_max 3.0"),
        ({"rollout_importance_sampling_clip_max": float("nan")}, "with clip_max nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        dataclasses.replace(CYCLES, **options)


def test_what_a_reward_needs_is_looked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_jail() -> None:
        raise InputError("the jail cannot be built")

    monkeypatch.setattr(code_module, "jail", no_jail)
    code = dataclasses.replace(CYCLES, rewards=(Reward("code"),))
    with pytest.raises(InputError, match="the jail cannot be built"):
        run(adapted(), code, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="regex has no pattern"):
        run(adapted(), dataclasses.replace(CYCLES, scoring=ScoringOptions()))
    run(adapted(), max_steps=1)  # the others do not need it


def test_rows_without_a_question_are_refused() -> None:
    plain = Example(np.arange(5, 9, dtype=np.int32), np.array([0, 1, 1, 1], np.float32))
    loop = dataclasses.replace(LOOP, save_steps=None)
    with pytest.raises(DataError, match="example 0 has no prompt"):
        train_grpo(adapted(), TOKENIZER, examples_in_memory([plain]), loop, CYCLES)


def test_a_step_that_is_not_finite_is_named_and_changes_nothing() -> None:
    model = adapted()
    before = runs.values(model)
    endless = (Reward("regex", 1e40), Reward("token_f1"))  # beyond float32
    broken = dataclasses.replace(CYCLES, rewards=endless, scale_rewards="none")
    with pytest.raises(
        NonFiniteError, match=r"step 1 gave .* first in the .*\(completions of cycle 0 \["
    ):
        run(model, broken)
    assert all(torch.equal(value, before[name]) for name, value in runs.values(model).items())
