"""TRL's side of `data_peers.py`: the preparation of `SFTTrainer` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import datasets
from data_rows import Clock, load_tokenizer, read
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer


def prepare(task: dict[str, Any], num_proc: int | None) -> dict[str, float]:
    """Make an SFTTrainer with a model of one tiny layer, from a data set that was read already.

    Args:
        num_proc: processes; None: this one.
    """
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(task["tokenizer"])
    tokenizer.pad_token = tokenizer.eos_token
    tiny = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in read(task["data"])
    ]
    # On disk, as a data set loaded from a file is: only then are its maps cached and shared.
    folder = Path(task["cache"])
    datasets.Dataset.from_list(rows).save_to_disk(folder / "rows")
    dataset = datasets.load_from_disk(folder / "rows")
    settings = SFTConfig(
        output_dir=str(folder / "out"),
        packing=True,
        max_length=task["max_length"],
        completion_only_loss=True,
        dataset_num_proc=num_proc,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    model = LlamaForCausalLM(tiny)
    clock = Clock()
    trainer = SFTTrainer(model, settings, train_dataset=dataset, processing_class=tokenizer)
    prepared = cast(datasets.Dataset, trainer.train_dataset)
    return clock.result(len(rows), sum(len(ids) for ids in prepared["input_ids"]))
