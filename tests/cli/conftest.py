"""A finished run of a tiny model, for the verbs that need one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.ship.serving import ServedRun, load_run


@pytest.fixture(scope="session")
def tiny_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-run")
    rows = [
        {"prompt": f"What helps against complaint {n}?", "completion": f"Rest, {n} days."}
        for n in range(16)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(tiny_folder), "quantization": "nf4", "device": "cpu"},
            "adapter": {"r": 4, "use_dora": True},
            "data": {"train": str(folder / "train.jsonl"), "system": "Be brief."},
            "train": {"max_steps": 3, "batch_size": 4, "learning_rate": 5e-2},
            "output": {"dir": str(folder / "run")},
        }
    )
    return lorakit.finetune(recipe).run


@pytest.fixture
def served(tiny_run: Path) -> ServedRun:
    return load_run(tiny_run)
