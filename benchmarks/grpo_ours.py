"""lorakit's side of `grpo_peers.py`: rollouts, and whole steps."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sft_ours
from contest import Memory, step_seconds
from grpo_work import END_ID, GROUP_SIZE, REWARDED, Roller, Work, end_ids, tokenizer

from lorakit.adapters.attach import attach_adapter
from lorakit.data.examples import Example, examples_in_memory
from lorakit.generate import SamplingSettings, generate
from lorakit.recipe import LoraConfig
from lorakit.tasks import ScoringOptions
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.rewards import Reward
from lorakit.train.settings import LoopSettings

LEARNING_RATE = 1e-5


@contextmanager
def roller(model: Path, work: Work) -> Generator[Roller]:
    """A function that answers prompts with so many tokens each, and gives the numbers of tokens."""
    loaded = sft_ours.load(model, "none")
    words = tokenizer(loaded.config.vocab_size)
    settings = SamplingSettings(max_new_tokens=work.most, ignore_eos=True)

    def run(asked: list[list[int]], lengths: list[int]) -> list[int]:
        found = generate(loaded, words, asked, settings, max_new_tokens=lengths)
        return [len(one.token_ids) for one in found]

    yield run


def steps(
    model: Path, work: Work, *, num_steps: int, warmup: int, compact_heap: bool
) -> dict[str, Any]:
    """Load, train, and tell."""
    memory = Memory()
    imports = memory.now()
    loaded = sft_ours.load(model, "none")
    vocabulary = loaded.config.vocab_size
    loaded.generation_config.eos_token_id = end_ids(vocabulary, work.most)
    attach_adapter(loaded, LoraConfig(r=sft_ours.RANK, lora_alpha=sft_ours.ALPHA))
    memory.forget()
    loop = LoopSettings(
        max_steps=num_steps,
        batch_size=len(work.lengths),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=sft_ours.MAX_GRAD_NORM,
        seed=sft_ours.SEED,
        logging_steps=1,
        compact_heap=compact_heap,
    )
    grpo = GRPOSettings(
        rewards=(Reward("regex"),),
        scoring=ScoringOptions(regex=REWARDED),
        num_generations=GROUP_SIZE,
        loss=PolicyLossSettings(max_completion_length=work.most),
    )
    started = time.process_time()
    outcome = train_grpo(loaded, tokenizer(vocabulary), questions(work), loop, grpo)
    cpu_seconds = time.process_time() - started
    lines = outcome.metrics
    return {
        "seconds": step_seconds([line["seconds"] for line in lines], warmup),
        "rollout_seconds": [line["seconds/rollout"] for line in lines][warmup:],
        "mean_lengths": [line["completions/mean_length"] for line in lines][warmup:],
        "without_variance": [line["frac_reward_zero_std"] for line in lines][warmup:],
        "cpu_seconds": cpu_seconds,
        "imports_bytes": imports,
        "peak_bytes": memory.peak(),
        "choices": outcome.choices.to_json(),
    }


def questions(work: Work):
    """The prompts with a reference that no reward looks at."""
    return examples_in_memory(
        [
            Example(
                np.array([*prompt, END_ID], np.int32),
                np.array([0.0] * len(prompt) + [1.0], np.float32),
            )
            for prompt in work.prompts
        ]
    )
