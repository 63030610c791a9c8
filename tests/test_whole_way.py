"""The whole way on a real pretrained model: the base underneath is what it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import lorakit
from lorakit.cli import main
from lorakit.lint import languages
from lorakit.train.from_recipe import train_recipe
from tests import golden


@pytest.mark.parametrize(
    ("name", "use_dora"),
    [
        ("stories260K", True),
        pytest.param("stories260K", False, marks=pytest.mark.slow),
        pytest.param("bitllama-1M", True, marks=pytest.mark.slow),
        pytest.param("bitllama-1M", False, marks=pytest.mark.slow),
    ],
)
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
            "train": {
                "max_steps": 3,
                "batch_size": 4,
                "warmup_steps": 0,
                "learning_rate": 3e-4,
            },
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


@pytest.mark.slow
def test_a_run_goes_on_from_the_adapter_of_another(tiny_folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": role, "content": "What helps?"} for role in ("user", "assistant")]}
    rows.write_text(f"{json.dumps(row)}\n" * 8)

    def run(name: str, adapter: dict[str, Any]) -> Path:
        recipe = {
            "base": {"model": str(tiny_folder), "dtype": "float32"},
            "adapter": adapter,
            "data": {"train": str(rows)},
            "train": {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-9},
            "output": {"dir": str(tmp_path / name)},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        for verb in ("check", "plan", "train"):
            assert main([verb, str(path)]) == 0
        return tmp_path / name / "adapter"

    first = run("first", {"r": 3, "use_dora": True, "target_modules": ["q_proj"]})
    second = run("second", {"path": str(first)})
    expected, found = (load_file(path / "adapter_model.safetensors") for path in (first, second))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_what_comes_before_training_is_let_go_and_rows_are_not_needed_again(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What helps {n}?", "completion": f"Rest {n}."} for n in range(80)]
    rows.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(tiny_folder), "dtype": "float32"},
            "data": {"train": str(rows), "validation": 0.5},
            "train": {"max_steps": 1},
            "evaluate": {"metrics": ["loss", "exact_match"], "max_new_tokens": 2},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    module = sys.modules[lorakit.finetune.__module__]
    seen: list[tuple[bool, int]] = []

    def noted(model: Any, tokenizer: Any, recipe: Any, sets: Any, **options: Any) -> Any:
        kept = [one._kept is not None for one in sets._row_sets()]
        seen.append((any(kept), languages._identifier.cache_info().currsize))
        rows.unlink()
        return train_recipe(model, tokenizer, recipe, sets, **options)

    monkeypatch.setattr(module, "train_recipe", noted)
    outcome = lorakit.finetune(recipe)
    assert seen == [(False, 0)]
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["in_domain"]
    assert {"overfitting", "memorisation"} <= found.keys()
    assert outcome.evaluation["in_domain"].answered


def test_who_stops_what_comes_after_the_training_is_told_how_the_run_ends(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What helps {n}?", "completion": f"Rest {n}."} for n in range(8)]
    rows.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(tiny_folder), "dtype": "float32"},
            "data": {"train": str(rows), "validation": 0.5},
            "train": {"max_steps": 1},
            "evaluate": {"metrics": ["loss"]},
            "output": {"dir": str(tmp_path / "run")},
        }
    )

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(sys.modules[lorakit.finetune.__module__], "evaluate_sets", stop)
        lorakit.finetune(recipe)
    told = caplog.messages[-1]
    assert "the training is done" in told and f"--output {tmp_path / 'run'} --resume" in told
    assert lorakit.finetune(recipe, resume=True).evaluation["in_domain"]
