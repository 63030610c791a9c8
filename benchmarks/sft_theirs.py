"""The peers' side of `sft_peers.py`: PEFT and TRL, with bitsandbytes for 4-bit bases.

TRL is used as its documentation has it: SFTTrainer, rows tokenized beforehand with their labels,
nothing logged or saved. Where it has a choice, `SETTINGS` says which.

Two things are put right in the peers' favour. TRL rounds the adapter of a 4-bit base to bfloat16,
which an AVX2 machine computes some twenty times slower than float32: it is made float32 again. And
their default of bf16 mixed precision is off, for the same reason.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from contest import Memory, step_seconds
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peer_base import load
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from sft_ours import LEARNING_RATE, MAX_GRAD_NORM, SEED, storage_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer
from workload import ROWS_PER_STEP, Row, num_tokens, steps_of

LONGEST_PACK = 1024  # TRL's default max_length


@dataclass(frozen=True)
class PeerSetting:
    """How the 8 rows of a step are laid out.

    Attributes:
        batch: rows of a micro-batch; packed: packs.
        padding_free: the rows of a micro-batch lie in one, told apart by their positions.
        packed: the step's rows share as few packs of at most 1,024 tokens as all steps can do with,
            evenly filled; so a step is the same rows as everywhere, which TRL's own packing of the
            whole set would not keep.
        gradient_checkpointing: TRL's default is on.
    """

    batch: int
    padding_free: bool = False
    packed: bool = False
    gradient_checkpointing: bool = False


SETTINGS = {
    "default": PeerSetting(2, gradient_checkpointing=True),
    "padded": PeerSetting(2),
    "single": PeerSetting(1),  # a row at a time: nothing to pad, and no mask
    "padding_free": PeerSetting(2, padding_free=True),
    "packed": PeerSetting(1, padding_free=True, packed=True),
}


def measure(
    model: Path, adapter: Path, variant: str, rows: list[Row], warmup: int, setting: str
) -> dict[str, Any]:
    """Load, train, and tell."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bar()
    memory = Memory()
    imports = memory.now()
    base = load(model, storage_of(variant))
    adapted = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    load_peak = memory.peak()
    chosen = SETTINGS[setting]
    dataset, per_step = laid_out(rows, chosen)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Recording(
            adapted,
            args=arguments(folder, chosen, per_step),
            train_dataset=dataset,
            processing_class=tokenizer(),
            callbacks=[clock],
        )
        in_float32(adapted, adapter)
        check_batches(trainer, rows, chosen, per_step)
        memory.forget()
        started = time.process_time()
        trainer.train()
        cpu_seconds = time.process_time() - started
    ends = clock.ends
    return {
        "tokens": [num_tokens(step) for step in steps_of(rows)][warmup:],
        "seconds": step_seconds(ends, warmup),
        "cpu_seconds": cpu_seconds,
        "losses": [
            sum(trainer.losses[i : i + per_step]) for i in range(0, len(trainer.losses), per_step)
        ],
        "imports_bytes": imports,
        "load_peak_bytes": load_peak,
        "peak_bytes": memory.peak(),
    }


def arguments(folder: str, setting: PeerSetting, per_step: int) -> SFTConfig:
    """The same hyperparameters as lorakit's; no logging, no saving, the loader in this process."""
    return SFTConfig(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=setting.batch,
        gradient_accumulation_steps=per_step,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        weight_decay=0.0,
        seed=SEED,
        gradient_checkpointing=setting.gradient_checkpointing,
        padding_free=setting.padding_free,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )


def laid_out(rows: list[Row], setting: PeerSetting) -> tuple[Dataset, int]:
    """The rows as a data set in TRL's form, and how many micro-batches a step has."""
    if not setting.packed:
        columns = {
            "input_ids": [row.input_ids.tolist() for row in rows],
            "labels": [row.labels for row in rows],
        }
        return Dataset.from_dict(columns), ROWS_PER_STEP // setting.batch
    per_step = max(-(-num_tokens(step) // LONGEST_PACK) for step in steps_of(rows))
    packs = [pack for step in steps_of(rows) for pack in evenly(step, per_step)]
    columns = {
        "input_ids": [[i for row in pack for i in row.input_ids.tolist()] for pack in packs],
        "labels": [[i for row in pack for i in row.labels] for pack in packs],
        "seq_lengths": [[len(row.input_ids) for row in pack] for pack in packs],
    }
    return Dataset.from_dict(columns), per_step


def evenly(rows: list[Row], count: int) -> list[list[Row]]:
    """`count` groups of about as many tokens each: the longest first, into the emptiest."""
    groups: list[list[Row]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: -len(row.input_ids)):
        min(groups, key=num_tokens).append(row)
    return groups


def tokenizer() -> PreTrainedTokenizerFast:
    """The trainer asks for one; the rows are tokenized, so only its pad token matters."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<pad>"
    )


def in_float32(adapted: PeftModel, adapter: Path) -> None:
    """The adapter as it was saved: SFTTrainer rounds that of a 4-bit base to bfloat16."""
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    set_peft_model_state_dict(adapted, load_peft_weights(str(adapter), device="cpu"))


def check_batches(
    trainer: SFTTrainer, rows: list[Row], setting: PeerSetting, per_step: int
) -> None:
    """Each step must see the tokens and labels that lorakit sees in it.

    Raises:
        AssertionError: it does not.
    """
    batches = list(trainer.get_train_dataloader())
    for number, step in enumerate(steps_of(rows)):
        seen, trained = [], []
        for batch in batches[number * per_step : (number + 1) * per_step]:
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            seen += batch["input_ids"][mask].tolist()
            trained += batch["labels"][batch["labels"] != -100].tolist()
        order = (
            [row for group in evenly(step, per_step) for row in group] if setting.packed else step
        )
        assert seen == [i for row in order for i in row.input_ids.tolist()]
        assert trained == [i for row in order for i in row.labels if i != -100]


class Recording(SFTTrainer):
    """Keeps each micro-batch's share of its step's loss; the trainer's own log rounds it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.losses: list[float] = []
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())
