"""Small runs of the policy gradient for the tests of this room."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.recipe import LoraConfig
from lorakit.tasks import ScoringOptions
from lorakit.train.checkpoint import Checkpoint, read_checkpoint
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.outcome import TrainOutcome
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.rewards import Reward
from lorakit.train.settings import LoopSettings
from tests import families, tiny

TOKENIZER = tiny.tokenizer()
EOS = 4

# Three cycles of two steps, gone through twice, with everything that a checkpoint must hold.
CYCLES = GRPOSettings(
    rewards=(Reward("regex"), Reward("token_f1", 0.5)),
    scoring=ScoringOptions(regex="[a-m]"),
    num_generations=2,
    num_iterations=2,
    generation_batch_size=8,
    temperature=0.9,
    rollout_importance_sampling_mode="token_truncate",
    loss=PolicyLossSettings(max_completion_length=4, beta=0.02),
)
LOOP = LoopSettings(
    max_steps=12,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=0,
    micro_batch_tokens=48,
    save_steps=1,
    save_total_limit=99,
    logging_steps=3,  # lines that end inside of cycles
    seed=5,
    worst_batch_first=False,  # has tests of its own
)
STEPS_PER_CYCLE = CYCLES.cycle(LOOP.batch_size).num_steps


def questions(count: int = 5) -> ExampleSet:
    """Prompts of different lengths; the reference is `daily` and an end token."""
    examples = []
    for number in range(count):
        prompt = [1, *TOKENIZER("What is " + "asthma " * number + "?")["input_ids"]]
        answer = [*TOKENIZER("daily")["input_ids"], EOS]
        weights = np.array([0] * len(prompt) + [1] * len(answer), np.float32)
        examples.append(Example(np.array(prompt + answer, np.int32), weights))
    return examples_in_memory(examples)


def adapted(**adapter: Any) -> PreTrainedModel:
    """A model that does not say everything with the same probability, its adapter moved."""
    model = families.build("llama", initializer_range=0.2)
    attach_adapter(model, LoraConfig(**({"r": 4, "lora_alpha": 8} | adapter)))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def run(
    model: PreTrainedModel,
    grpo: GRPOSettings = CYCLES,
    loop: LoopSettings = LOOP,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    **loop_options: Any,
) -> TrainOutcome:
    if run_dir is None:
        loop_options.setdefault("save_steps", None)
    loop = dataclasses.replace(loop, **loop_options)
    return train_grpo(model, TOKENIZER, questions(), loop, grpo, run_dir=run_dir, resume=resume)


def logged(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without what depends on the clock and the machine's memory."""
    clock = ("seconds", "tokens_per_second", "peak_bytes")
    return [{k: v for k, v in line.items() if not k.startswith(clock)} for line in metrics]


def newest(folder: Path) -> Checkpoint:
    """The newest checkpoint of a run, whoever's it is."""
    paths = (folder / "checkpoints").glob("step-*")
    return read_checkpoint(max(paths, key=lambda path: int(path.name.removeprefix("step-"))))


def assert_same_run(folder: Path, other: Path) -> None:
    """Weights, moments, rollouts, counters and lines are the same bits."""
    ours, theirs = newest(folder), newest(other)
    assert ours.step == theirs.step
    assert ours.tensors.keys() == theirs.tensors.keys()
    for group, named in theirs.tensors.items():
        for name, value in named.items():
            assert torch.equal(ours.tensors[group][name], value), (group, name)
    assert ours.identity == theirs.identity


def later_than(step: int):
    """For `shutil.copytree`: the run folder as it was after `step` steps."""

    def ignored(_: str, names: list[str]) -> list[str]:
        return [n for n in names if n.startswith("step-") and int(n.removeprefix("step-")) > step]

    return ignored
