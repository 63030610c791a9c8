"""The worst of a policy gradient first: it is tried, it is told, and nothing of it stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from lorakit.errors import RunError
from lorakit.train import policy_first
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.samplers import sample_here
from tests.train.grpo_runs import (
    CYCLES,
    LOOP,
    STEPS_PER_CYCLE,
    TOKENIZER,
    adapted,
    assert_same_run,
    logged,
    questions,
    run,
)

PLAIN = dataclasses.replace(
    CYCLES,
    num_iterations=1,
    rollout_importance_sampling_mode=None,
    loss=dataclasses.replace(CYCLES.loss, beta=0.0),
)


@pytest.mark.parametrize(
    ("grpo", "options", "adapter"),
    [
        (CYCLES, {"optim": "paged_adamw_8bit"}, {"lora_dropout": 0.1, "use_dora": True}),
        (PLAIN, {"packing": False}, {}),
    ],
)
def test_nothing_of_it_stays(
    grpo: GRPOSettings, options: dict, adapter: dict, tmp_path: Path
) -> None:
    found = []
    for first in (True, False):
        torch.manual_seed(3)
        outcome = run(
            adapted(**adapter),
            grpo,
            run_dir=tmp_path / str(first),
            worst_batch_first=first,
            max_steps=STEPS_PER_CYCLE + 1,
            **options,
        )
        found.append((logged(outcome.metrics), torch.rand(3).tolist(), outcome.optimizer))
    assert found[0] == found[1]
    assert_same_run(tmp_path / "True", tmp_path / "False")


def test_nothing_of_it_stays_where_a_run_is_gone_on_from(tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    run(adapted(), run_dir=whole, max_steps=4)
    run(adapted(), run_dir=again, max_steps=4, save_steps=3)
    for step in again.glob("checkpoints/step-4/*"):
        step.unlink()
    again.joinpath("checkpoints/step-4").rmdir()
    run(adapted(), run_dir=again, max_steps=4, resume=True, worst_batch_first=True)
    assert_same_run(again, whole)


class Tried:
    """What was tried, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[str] = []
        for name in ("longest_passes", "look_back", "backward_with_room"):
            self._watch(monkeypatch, name)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        plain = getattr(policy_first, name)

        def watched(*arguments, **options):
            self.parts.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(policy_first, name, watched)


def test_every_part_of_a_cycle_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(monkeypatch)
    run(adapted(), worst_batch_first=True, max_steps=1)
    assert tried.parts[0] == "longest_passes" and tried.parts.count("longest_passes") == 1
    passes = tried.parts[1:]
    assert passes and passes == ["look_back", "backward_with_room"] * (len(passes) // 2)


def test_what_a_server_generates_is_not_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(monkeypatch)
    loop = dataclasses.replace(LOOP, save_steps=None, worst_batch_first=True, max_steps=1)

    def elsewhere(*arguments):
        return sample_here(*arguments)

    train_grpo(adapted(), TOKENIZER, questions(), loop, CYCLES, sample=elsewhere)
    assert "longest_passes" not in tried.parts and "backward_with_room" in tried.parts


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("longest_passes", ("rolling out 8 completions at a time", "grpo.max_batch: 2")),
        ("look_back", ("the largest micro-batch of this run", "gradient_checkpointing: true")),
        ("backward_with_room", ("of up to 48 tokens", "grpo.max_completion_length below 4")),
    ],
)
def test_a_run_that_does_not_fit_says_what_would(
    part: str, said: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(policy_first, part, refuse)
    with pytest.raises(RunError) as caught:
        run(adapted(), run_dir=tmp_path / "run", worst_batch_first=True)
    for words in (*said, "no step was done", "base.quantization: nf4"):
        assert words in str(caught.value)
    assert not (tmp_path / "run/metrics.jsonl").exists()
