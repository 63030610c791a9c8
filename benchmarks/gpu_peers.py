"""The peers' training pieces of `gpu.py`: PEFT and TRL, with bitsandbytes for 4-bit bases, on the
weights, rows and hyperparameters of lorakit's.

Settings: "default" is TRL's, which recomputes all layers; "kept" recomputes nothing, as lorakit's
base case. All rows are of one length, so a batch of them has no padding, and nothing is to be won
by packing.
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

import gpu_model
import torch
import transformers
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from gpu_training import Case, Clock, Place, peak_bytes, rows_of
from peft import LoraConfig, get_peft_model
from sft_ours import ALPHA, B_DEVIATION, LEARNING_RATE, MAX_GRAD_NORM, RANK, SEED, storage_of
from sft_theirs import tokenizer
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

SETTINGS = ("default", "kept")


class Marks(TrainerCallback):
    """The ends of steps, from the last of the warm-up on."""

    def __init__(self, clock: Clock, warmup: int) -> None:
        self.clock, self._warmup = clock, warmup

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step >= self._warmup:
            self.clock.mark()


def measure(case: Case, place: Place, setting: str) -> dict[str, Any]:
    """Make the model, train, and tell."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bar()
    base = gpu_model.theirs(place.config, storage_of(case.variant), place.device, place.dtype)
    load_peak = peak_bytes(place.device)
    adapter = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules="all-linear",
        use_dora=case.variant == "qdora",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(base, adapter)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=B_DEVIATION)
    clock = Clock(place.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            adapted,
            args=arguments(folder, case, place, setting),
            train_dataset=dataset(case, place),
            processing_class=tokenizer(),
            callbacks=[Marks(clock, place.warmup)],
        )
        trainer.train()
    seconds = clock.seconds()
    return {
        "setting": setting,
        "tokens": case.num_tokens,
        "seconds": seconds,
        "tokens_per_second": case.num_tokens / statistics.median(seconds),
        "load_peak_bytes": load_peak,
        "peak_bytes": peak_bytes(place.device),
    }


def arguments(folder: str, case: Case, place: Place, setting: str) -> SFTConfig:
    """lorakit's hyperparameters; nothing logged or saved, the loader in this process."""
    return SFTConfig(
        folder,
        max_steps=place.warmup + place.steps,
        per_device_train_batch_size=case.num_rows,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        weight_decay=0.0,
        seed=SEED,
        gradient_checkpointing=setting == "default",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        use_cpu=place.device.type == "cpu",
        bf16=place.dtype == torch.bfloat16,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )


def dataset(case: Case, place: Place) -> Dataset:
    """The rows of `gpu_training.rows_of`, with labels."""
    rows = rows_of(case, place)
    ids = [rows[i].input_ids.tolist() for i in range(len(rows))]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})
