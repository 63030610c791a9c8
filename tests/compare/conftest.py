"""A tiny model that was tuned to one answer, and the recipe it was tuned by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lorakit
from lorakit.recipe import Recipe, parse_recipe

NUM_QUESTIONS = 24
STYLE = "Rest, then call."


@dataclass(frozen=True)
class Trained:
    """A finished run, the values of its recipe, and its documents."""

    run: Path
    values: dict[str, Any]
    documents: Path

    def recipe(self, **compare: Any) -> Recipe:
        return parse_recipe(self.values | {"compare": self.values["compare"] | compare})


@pytest.fixture(scope="package")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("five-ways")
    words = ("cough", "fever", "rash", "pain", "cold", "burn")

    def rows(offset: int, count: int) -> str:
        made = [
            {"prompt": f"Aid {words[n % 6]} {n + offset}?", "completion": STYLE}
            for n in range(count)
        ]
        return "".join(json.dumps(row) + "\n" for row in made)

    (folder / "train.jsonl").write_text(rows(100, 32))
    (folder / "held_out.jsonl").write_text(rows(500, NUM_QUESTIONS))
    documents = folder / "documents"
    documents.mkdir()
    for number, word in enumerate(words[:5]):  # nothing on burns
        (documents / f"{number}.txt").write_text(f"On {word}.\n\nA {word} heals by itself.\n")
    values = {
        "base": {"model": str(tiny_folder), "dtype": "float32", "device": "cpu"},
        "adapter": {"r": 4},
        "data": {"train": str(folder / "train.jsonl"), "max_length": 200},
        "train": {"max_steps": 15, "batch_size": 8, "learning_rate": 5e-2, "warmup_steps": 2},
        "evaluate": {
            "in_domain": str(folder / "held_out.jsonl"),
            "metrics": ["loss", "token_f1"],
            "max_generated": 2,
            "max_new_tokens": 6,
        },
        "compare": {
            "documents": str(documents),
            "chunk_characters": 40,
            "overlap_characters": 0,
            "top_k": 2,
            "prompt": "{documents}|{question}",
            "few_shot": 2,
            "timed": 2,
            "margin": 0.05,
        },
        "output": {"dir": str(folder / "run")},
    }
    return Trained(lorakit.finetune(parse_recipe(values)).run, values, documents)
