"""The sets that `real_data.py` checks and trains on: a recipe for each as a practitioner would
write it, and the files that have to be made first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Sections = dict[str, dict[str, Any]]

RECIPES = Path(__file__).parents[1] / "recipes"
MILLION = 1_000_000
SPEECHES_A_ROW = 8
REPEAT_EVERY = 10
SOLVERS = ("175b_finetuning", "175b_verification")


@dataclass(frozen=True)
class RealSet:
    """A data set with its recipe.

    Attributes:
        sections: of the recipe, given the folder of the data and one for files that are made.
        errors: ids of the findings of severity error that the page of the rules explains.
    """

    name: str
    sections: Callable[[Path, Path], Sections]
    errors: tuple[str, ...] = ()


def recipe_of(real: RealSet, data: Path, folder: Path) -> Sections:
    """The recipe to check; makes the files it needs. The demo's is taken as it ships."""
    sections = real.sections(data, folder)
    base = {"model": "builtin", "device": "cpu", "dtype": "float32"}
    adapter = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
    # Above the usual 2e-4: the base is small.
    train = {"batch_size": 8, "learning_rate": 1e-3}
    evaluate = {"retention": "builtin:retention", "metrics": ["loss", "token_f1"]}
    common: Sections = {"base": base, "adapter": adapter, "train": train, "evaluate": evaluate}
    if "base" in sections:
        common = {}
    whole = {name: common.get(name, {}) | sections.get(name, {}) for name in {**common, **sections}}
    return whole | {"output": {"dir": str(folder / "run")}}


def shortened(sections: Sections, steps: int, examples: int) -> Sections:
    """The recipe for a run of a few steps, of which only losses of a few examples are measured."""
    train = {name: value for name, value in sections["train"].items() if name != "num_train_epochs"}
    evaluate = {
        name: value
        for name, value in sections["evaluate"].items()
        if name in ("in_domain", "out_of_domain", "retention")
    }
    return sections | {
        "train": train | {"max_steps": steps},
        "evaluate": evaluate | {"metrics": ["loss"], "max_examples": examples},
    }


def _medquad(data: Path, folder: Path) -> Sections:
    return {
        "data": {
            "train": str(data / "medquad" / "medquad_train.jsonl"),
            "validation": 0.05,
            "group": "focus",
        },
        "train": {"num_train_epochs": 2},
        "evaluate": {"out_of_domain": str(data / "medquad" / "small_test_300.jsonl")},
    }


def _medquad_small(data: Path, folder: Path) -> Sections:
    return {
        "data": {
            "train": str(data / "medquad" / "small_train_2000.jsonl"),
            "validation": 0.05,
            "group": "focus",
        },
        "evaluate": {"in_domain": str(data / "medquad" / "small_test_300.jsonl")},
    }


def _gsm8k(data: Path, folder: Path) -> Sections:
    return {
        "adapter": {"r": 32, "lora_alpha": 64},
        "data": {
            "train": str(data / "instruct" / "gsm8k_train.jsonl"),
            "validation": 0.05,
        },
        "train": {"num_train_epochs": 2},
        "evaluate": {
            "in_domain": str(data / "instruct" / "gsm8k_test.jsonl"),
            "metrics": ["loss", "math"],
        },
    }


def _solutions(data: Path, folder: Path) -> Sections:
    rows = rows_of(data / "instruct" / "gsm8k_example_model_solutions.jsonl")
    made = (
        {"question": row["question"], "answer": row[solver]["solution"]}
        for row in rows
        for solver in SOLVERS
    )
    return {
        "adapter": {"r": 32, "lora_alpha": 64},
        "data": {"train": str(written(folder / "solutions.jsonl", made)), "validation": 0.1},
    }


def _pubmedqa(data: Path, folder: Path) -> Sections:
    train = str(data / "instruct" / "pubmedqa_train.jsonl")
    return {"data": {"train": train, "validation": 0.1}, "evaluate": {"metrics": ["loss"]}}


def _pubmedqa_long(data: Path, folder: Path) -> Sections:
    long = {"question": "question", "context": "context", "answer": "long_answer"}
    return {
        "data": {
            "train": str(data / "instruct" / "pubmedqa_train.jsonl"),
            "validation": 0.1,
            "columns": long,
        }
    }


def _self_instruct(data: Path, folder: Path) -> Sections:
    train = str(data / "instruct" / "self_instruct_seed_tasks.jsonl")
    return {"data": {"train": train, "validation": 0.1}}


def _tinker(data: Path, folder: Path) -> Sections:
    train = str(data / "instruct" / "tinker_conversations.jsonl")
    return {"data": {"train": train, "validation": 0.1}}


def _mixture(data: Path, folder: Path) -> Sections:
    names = ("self_instruct_seed_tasks", "tinker_conversations", "gsm8k_train")
    instruct = [str(data / "instruct" / f"{name}.jsonl") for name in names]
    medquad = str(data / "medquad" / "small_train_2000.jsonl")
    return {
        "adapter": {"r": 32, "lora_alpha": 64},
        "data": {"train": [*instruct, medquad], "validation": 0.05},
        "train": {"num_train_epochs": 2},
        "evaluate": {"in_domain": str(data / "medquad" / "small_test_300.jsonl")},
    }


def _plays(data: Path, folder: Path) -> Sections:
    speeches = (data / "tiny_shakespeare.txt").read_text("utf-8").strip().split("\n\n")
    made = (
        {"text": "\n\n".join(speeches[first : first + SPEECHES_A_ROW])}
        for first in range(0, len(speeches), SPEECHES_A_ROW)
    )
    return {"data": {"train": str(written(folder / "plays.jsonl", made)), "validation": 0.1}}


def _plays_as_one(data: Path, folder: Path) -> Sections:
    return {"data": {"train": str(data / "tiny_shakespeare.txt"), "format": "text"}}


def _demo(data: Path, folder: Path) -> Sections:
    values: Sections = yaml.safe_load((RECIPES / "demo.yaml").read_text("utf-8"))
    return values


def _general(data: Path, folder: Path) -> Sections:
    return {"data": {"train": "builtin:general", "validation": 0.1}}


REAL = (
    RealSet("medquad", _medquad),
    RealSet("medquad-small", _medquad_small),
    RealSet("gsm8k", _gsm8k),
    RealSet("gsm8k-solutions", _solutions),
    RealSet("pubmedqa", _pubmedqa),
    RealSet("pubmedqa-long", _pubmedqa_long),
    RealSet("self-instruct", _self_instruct),
    RealSet("tinker", _tinker),
    RealSet("mixture", _mixture),
    RealSet("shakespeare", _plays),
    RealSet("shakespeare-one-row", _plays_as_one, errors=("data-refused",)),
    RealSet("demo", _demo),
    RealSet("builtin-general", _general),
)


def million_sets(count: int = MILLION) -> tuple[RealSet, ...]:
    """Made sets of `count` rows: one that is sound, and one in which each tenth row repeats."""

    def sections(name: str, repeat_every: int | None) -> Callable[[Path, Path], Sections]:
        def made(data: Path, folder: Path) -> Sections:
            path = written(folder / f"{name}.jsonl", stock_rows(count, repeat_every, seed=0))
            return {
                "data": {"train": str(path), "validation": 0.002},
                "train": {"num_train_epochs": 1},
            }

        return made

    return (
        RealSet("million", sections("million", None)),
        RealSet("million-repeated", sections("million-repeated", REPEAT_EVERY)),
    )


def stock_rows(count: int, repeat_every: int | None, seed: int) -> Iterator[dict[str, str]]:
    """Short questions about the stock of a pharmacy; no two alike but where one is repeated.

    Args:
        repeat_every: each so-many-th row is the row before it once more; None: no row is.
    """
    generator = np.random.default_rng(seed)
    drugs = ("amoxicillin", "ibuprofen", "metformin", "insulin", "heparin", "codeine", "salbutamol")
    places = ("cellar", "fridge", "ward", "theatre", "main store", "night cupboard")
    row: dict[str, str] = {}
    for number in range(count):
        if repeat_every is None or number % repeat_every < repeat_every - 1:
            drug, place = (names[generator.integers(len(names))] for names in (drugs, places))
            packs, shelf = generator.integers(1, 100_000), generator.integers(1, 1000)
            row = {
                "question": f"Batch {number} of {drug}: how many packs came to the {place}?",
                "answer": f"{packs} packs of {drug}, on shelf {shelf} of the {place}.",
            }
        yield row


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def written(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of these rows."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path
