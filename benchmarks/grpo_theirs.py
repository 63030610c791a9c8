"""The peers' side of `grpo_peers.py`: transformers' two ways to generate, and TRL's GRPOTrainer."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from contest import Memory, step_seconds
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from grpo_ours import LEARNING_RATE
from grpo_work import GROUP_SIZE, REWARDED, Roller, Work, end_ids, tokenizer, words
from peer_base import load
from peft import LoraConfig
from sampler import OwnLengths
from sft_ours import ALPHA, MAX_GRAD_NORM, RANK, SEED
from sft_theirs import Clock
from transformers import GenerationConfig
from transformers.generation import ContinuousBatchingConfig
from trl import GRPOConfig, GRPOTrainer

# transformers' `generate`: options of GenerationConfig, and rows of a batch.
GENERATE = {
    "generate": {},
    "generate_static": {"cache_implementation": "static", "disable_compile": True},
}
# Its continuous batching, with room for 64 answers. Unless told the numbers of blocks and tokens it
# makes them as large as memory allows, and prepares for seconds.
BATCHED: dict[str, dict[str, Any]] = {
    "batched": {"page_size": 32, "num_blocks": 1024, "max_batch_tokens": 512},
    "batched_256": {"page_size": 256, "num_blocks": 128, "max_batch_tokens": 512},
    "batched_large": {"page_size": 32, "num_blocks": 1024, "max_batch_tokens": 4096},
    "batched_small": {"page_size": 16, "num_blocks": 2048, "max_batch_tokens": 256},
    "batched_prefill": {
        "page_size": 32,
        "num_blocks": 1024,
        "max_batch_tokens": 512,
        "scheduler_type": "prefill_first",
    },
}
PLAIN = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}


@contextmanager
def roller(model: Path, work: Work, name: str) -> Generator[Roller]:
    """A function that answers prompts with so many tokens each, and gives the numbers of tokens."""
    quiet()
    loaded = load(model, "none").eval()
    if name in BATCHED:
        with batches(loaded, work, BATCHED[name]) as batched:
            yield batched
        return

    def run(asked: list[list[int]], lengths: list[int]) -> list[int]:
        width = max(map(len, asked))
        ids = torch.zeros(len(asked), width, dtype=torch.int64)
        for row, prompt in zip(ids, asked, strict=True):
            row[width - len(prompt) :] = torch.tensor(prompt)
        out = loaded.generate(
            ids,
            attention_mask=(ids != 0).long(),
            generation_config=GenerationConfig(
                max_new_tokens=max(lengths), eos_token_id=None, **PLAIN, **GENERATE[name]
            ),
            stopping_criteria=[OwnLengths(width, lengths, ids.device)],
        )
        return [len(row[width:][:length]) for row, length in zip(out, lengths, strict=True)]

    yield run


@contextmanager
def batches(model: Any, work: Work, options: dict[str, Any]) -> Generator[Roller]:
    """One manager for all calls, as `generate_batch` makes one: what it prepares is not timed. Its
    thread would keep the process alive for ever."""
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(max_new_tokens=work.most, eos_token_id=-1, **PLAIN),
        continuous_batching_config=ContinuousBatchingConfig(**options),
    )
    manager.warmup()
    manager.start()

    def run(asked: list[list[int]], lengths: list[int]) -> list[int]:
        # In the order in which `generate_batch` adds prompts: equal ones together.
        order = sorted(range(len(asked)), key=lambda i: asked[i], reverse=True)
        places = {
            manager.add_request(asked[i], max_new_tokens=lengths[i], eos_token_id=-1): i
            for i in order
        }
        found: dict[int, int] = {}
        while len(found) < len(asked):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                assert result.error is None, result.error
                found[places[result.request_id]] = len(result.generated_tokens)
            assert manager.is_running()
        return [found[i] for i in range(len(asked))]

    try:
        yield run
    finally:
        manager.stop()


@dataclass(frozen=True)
class TRLSetting:
    """How 64 completions are generated and trained on.

    Attributes:
        batch: completions of a micro-batch.
        gradient_checkpointing: TRL's default is on.
        generation: options of GRPOConfig for rollouts.
    """

    batch: int
    gradient_checkpointing: bool = False
    generation: dict[str, Any] = field(default_factory=dict)


CONTINUOUS = {
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": BATCHED["batched"],
}
TRL = {
    "default": TRLSetting(8, gradient_checkpointing=True),
    "fast": TRLSetting(8),
    "fast_16": TRLSetting(16),
    "fast_64": TRLSetting(64),
    "continuous": TRLSetting(8, generation=CONTINUOUS),
}


def steps(model: Path, work: Work, name: str, *, num_steps: int, warmup: int) -> dict[str, Any]:
    """Load, train, and tell."""
    quiet()
    memory = Memory()
    imports = memory.now()
    base = load(model, "none")
    vocabulary = base.config.vocab_size
    base.generation_config.eos_token_id = end_ids(vocabulary, work.most)
    chosen, clock = TRL[name], Clock()
    lengths: list[float] = []
    without_variance: list[float] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
        found = [float(re.search(REWARDED, text) is not None) for text in completions]
        groups = [found[i : i + GROUP_SIZE] for i in range(0, len(found), GROUP_SIZE)]
        without_variance.append(sum(len(set(group)) == 1 for group in groups) / len(groups))
        return found

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            base,
            reward_funcs=cast(Callable[..., list[float | None]], reward),
            args=arguments(folder, work, chosen, num_steps),
            train_dataset=Dataset.from_dict({"prompt": [words(one) for one in work.prompts]}),
            processing_class=tokenizer(vocabulary),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
            callbacks=[clock],
        )
        memory.forget()
        started = time.process_time()
        trainer.train()
        cpu_seconds = time.process_time() - started
    return {
        "seconds": step_seconds(clock.ends, warmup),
        "mean_lengths": lengths[warmup:],
        "without_variance": without_variance[warmup:],
        "cpu_seconds": cpu_seconds,
        "imports_bytes": imports,
        "peak_bytes": memory.peak(),
    }


def arguments(folder: str, work: Work, setting: TRLSetting, num_steps: int) -> GRPOConfig:
    """The same hyperparameters as lorakit's; no logging, no saving, the loader in this process."""
    return GRPOConfig(
        folder,
        max_steps=num_steps,
        per_device_train_batch_size=setting.batch,
        gradient_accumulation_steps=len(work.lengths) // setting.batch,
        num_generations=GROUP_SIZE,
        max_completion_length=work.most,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        weight_decay=0.0,
        seed=SEED,
        gradient_checkpointing=setting.gradient_checkpointing,
        shuffle_dataset=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        **setting.generation,
    )


def quiet() -> None:
    """Nothing on the terminal but what is measured."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bar()
