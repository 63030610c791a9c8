"""Must-show 6: transformers' Trainer and TRL's SFTTrainer train a model with an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from lorakit.adapters.attach import Attached, adapter_disabled, attach_adapter
from lorakit.adapters.store import load_adapter
from lorakit.base.info import base_info
from lorakit.base.load import load_base
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests.adapters.bases import KINDS, STORAGES, Load, folder_of, logits
from tests.adapters.peers import load_in_peft
from tests.adapters.test_peft_parity import plain
from tests.tolerances import LOGITS_FLOAT32, relative_error

STEPS = 4
SENTENCE = "What is asthma? Asthma is a chronic disease of the airways."


@pytest.fixture
def setting(folders, tmp_path: Path, request: pytest.FixtureRequest):
    storage, kind = request.param
    model, tokenizer = load_base(
        folder_of(folders, "llama", storage),
        quantization=storage,
        dtype=torch.float32,
        device="cpu",
    )
    before = logits(model)
    config = LoraConfig(kind=kind, r=4, lora_dropout=0.1)
    return model, tokenizer, attach_adapter(model, config), before, tmp_path / "out"


def arguments(output: Path) -> dict[str, object]:
    return {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 3e-2,
        "logging_steps": 1,
        "save_steps": STEPS,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 1,
    }


def check_training(
    trainer: Trainer,
    model: PreTrainedModel,
    adapter: Attached,
    before: torch.Tensor,
    output: Path,
    load: Load,
) -> None:
    start = {name: parameter.detach().clone() for name, parameter in adapter.parameters().items()}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    moved = {name for name, p in adapter.parameters().items() if not torch.equal(p, start[name])}
    assert moved == set(start)
    model.eval()
    with adapter_disabled(model):
        assert torch.equal(logits(model), before)
    saved = output / f"checkpoint-{STEPS}"
    assert (saved / "adapter_model.safetensors").is_file()
    assert not (saved / "model.safetensors").exists()
    base = load("llama", base_info(model).quantization)
    theirs = load_in_peft(plain(base), saved)
    assert relative_error(logits(theirs), logits(model)) <= LOGITS_FLOAT32
    load_adapter(base, saved)
    assert torch.equal(logits(base), logits(model))


def check_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = tokenizer("What is asthma?", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]
    step = model(input_ids=prompt["input_ids"]).logits[0, -1].argmax()
    assert out[0, prompt["input_ids"].shape[1]] == step


VARIANTS = [(storage, kind) for storage in STORAGES for kind in KINDS]


@pytest.mark.parametrize("setting", VARIANTS, indirect=True, ids="-".join)
def test_transformers_trainer(setting, load: Load) -> None:
    model, tokenizer, adapter, before, output = setting
    ids = tokenizer([SENTENCE, SENTENCE[:30]])["input_ids"] * 4
    rows = [{"input_ids": row, "labels": row} for row in ids]

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)
        padded = {"input_ids": 0, "labels": -100}
        return {
            key: torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in batch])
            for key, fill in padded.items()
        }

    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments(output)),
        train_dataset=rows,
        data_collator=collate,
    )
    check_training(trainer, model, adapter, before, output, load)
    check_generation(model, tokenizer)


# TRL's own defaults say gradient_checkpointing, which this transformers renames.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
@pytest.mark.parametrize("setting", VARIANTS, indirect=True, ids="-".join)
def test_trl_sft_trainer(setting, load: Load) -> None:
    from trl import SFTConfig, SFTTrainer

    model, tokenizer, adapter, before, output = setting
    rows = Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": "What is asthma?"},
                    {"role": "assistant", "content": SENTENCE},
                ]
            }
        ]
        * 8
    )
    config = SFTConfig(**arguments(output), max_length=64, bf16=False)
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    check_training(trainer, model, adapter, before, output, load)
    check_generation(model, tokenizer)


def test_save_pretrained_says_what_it_cannot_do(load: Load, tmp_path: Path) -> None:
    model = load("llama")
    attach_adapter(model, LoraConfig(r=4))
    for arguments in ({"push_to_hub": True}, {"variant": "fp16"}, {"safe_serialization": False}):
        with pytest.raises(AdapterError, match="cannot save an adapter"):
            model.save_pretrained(tmp_path, **arguments)
    model.save_pretrained(tmp_path / "other rank", is_main_process=False)
    assert not list(tmp_path.iterdir())


def test_a_gathered_state_dict_is_what_is_saved(load: Load, tmp_path: Path) -> None:
    model = load("llama")
    attach_adapter(model, LoraConfig(r=4))
    gathered = {name: torch.full_like(t, 0.5) for name, t in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=gathered)
    again = load("llama")
    adapter = load_adapter(again, tmp_path)
    assert all((parameter == 0.5).all() for parameter in adapter.parameters().values())
    del gathered["model.layers.0.mlp.up_proj.adapter.lora_B"]
    with pytest.raises(AdapterError, match=r"has nothing for .*up_proj\.adapter\.lora_B"):
        model.save_pretrained(tmp_path, state_dict=gathered)
