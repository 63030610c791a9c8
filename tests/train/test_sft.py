"""train_sft: from rows to a trained adapter."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from lorakit.adapters.attach import attach_adapter
from lorakit.base.load import load_base
from lorakit.errors import AdapterError, DataError
from lorakit.recipe import LoraConfig, SFTConfig
from lorakit.train.loop import train
from lorakit.train.losses import example_losses
from lorakit.train.settings import LoopSettings
from lorakit.train.sft import train_sft
from tests.train import runs

ROWS = [
    {"prompt": f"What is asthma {i}?", "completion": " A chronic disease of the airways."}
    for i in range(6)
]
HELD_OUT = [{"prompt": "What is a fever?", "completion": " A chronic disease."}]
CONFIG = {"num_train_epochs": 6, "batch_size": 3, "learning_rate": 2e-2, "warmup_ratio": 0.0}


@pytest.mark.parametrize("as_dataset", [False, True])
def test_rows_train_an_adapter(tiny_folder: Path, tmp_path: Path, as_dataset: bool) -> None:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    rows = datasets.Dataset.from_list(ROWS) if as_dataset else ROWS
    config = SFTConfig(**CONFIG, output_dir=str(tmp_path / "run"))
    outcome = train_sft(model, tokenizer, rows, config, validation=HELD_OUT)
    assert outcome.steps == 12 and outcome.stopped == "finished"
    assert outcome.loss < outcome.metrics[0]["loss"] - 0.3
    assert outcome.validation_loss == outcome.metrics[-1]["validation_loss"]
    assert (tmp_path / "run" / "checkpoints" / "step-12").is_dir()
    assert "metrics" not in outcome.to_json() and outcome.to_json()["steps"] == 12


def test_without_an_adapter_or_rows_it_says_so(tiny_folder: Path) -> None:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    with pytest.raises(AdapterError, match="no adapter"):
        train_sft(model, tokenizer, ROWS, SFTConfig(**CONFIG))
    attach_adapter(model, LoraConfig(r=4))
    with pytest.raises(DataError):
        train_sft(model, tokenizer, [], SFTConfig(**CONFIG))
    with pytest.raises(DataError, match="max_length"):
        train_sft(model, tokenizer, ROWS, SFTConfig(**CONFIG, max_length=3))


def test_rows_that_are_trained_on_do_not_validate(
    tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    config = SFTConfig(max_steps=1)
    with pytest.raises(DataError, match="all 6 rows also occur in the training data"):
        train_sft(model, tokenizer, ROWS, config, validation=ROWS)
    mixed = train_sft(model, tokenizer, ROWS, config, validation=ROWS[:2] + HELD_OUT)
    assert "2 of 3 rows also occur" in caplog.text
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    alone = train_sft(model, tokenizer, ROWS, config, validation=HELD_OUT)
    assert mixed.validation_loss == alone.validation_loss


def test_max_length_over_the_model_s_context_is_refused(tiny_folder: Path) -> None:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    with pytest.raises(DataError, match="max_length 257 is over the model's context of 256"):
        train_sft(model, tokenizer, ROWS, SFTConfig(max_steps=1, max_length=257))


def test_max_length_defaults_to_the_model_s_context(tiny_folder: Path) -> None:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    too_long = {"prompt": "What?", "completion": "asthma " * 300}
    with pytest.raises(DataError, match="max_length 256"):
        train_sft(model, tokenizer, [too_long], SFTConfig(**CONFIG))


def test_the_last_validation_is_of_the_weights_the_model_has(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    held_out = runs.ragged_examples(5, seed=3, weighted=True)
    settings = LoopSettings(max_steps=2, batch_size=4, micro_batch_tokens=40)
    outcome = train(model, runs.ragged_examples(), settings, validation=held_out)
    measured = example_losses(model, held_out, token_budget=40, packed=True)
    assert outcome.validation_loss == pytest.approx(measured.mean, rel=1e-6)
