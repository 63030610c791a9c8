"""The whole way on a real pretrained model: the base underneath is what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

import lorakit
from tests import golden


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("name", ["stories260K", "bitllama-1M"])
def test_a_tuned_model_with_its_adapter_off_is_the_published_base(
    name: str, use_dora: bool, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "models" / name
    medquad = shared_data / "medquad"
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(folder), "dtype": "float32"},
            "adapter": {"use_dora": use_dora},
            "data": {
                "train": str(medquad / "small_test_300.jsonl"),
                "max_length": 512,
                "max_dropped": 0.9,
            },
            "train": {"max_steps": 3, "warmup_steps": 0, "learning_rate": 3e-4},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    outcome = lorakit.finetune(recipe)
    assert outcome.training.steps == 3
    model, tokenizer = lorakit.load_base(str(folder))
    lorakit.load_adapter(model, tmp_path / "run" / "adapter")
    with lorakit.adapter_disabled(model):
        golden.assert_golden(model, tokenizer, folder)
    with pytest.raises(AssertionError):
        golden.assert_golden(model, tokenizer, folder)
