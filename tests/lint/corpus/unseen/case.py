"""What a case is, and the recipe that most of them start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import yaml

from tests.lint.corpus.unseen.grammar import Exchange, pool

Row = dict[str, Any]
Make = Callable[[Random], Exchange]


@dataclass(frozen=True)
class Case:
    """A recipe with its data, and the one thing that is wrong with them; None: nothing is."""

    name: str
    flaw: str | None
    kind: Literal["recipe", "data", "both"]
    severity_expected: Literal["error", "warning"] | None
    recipe: Mapping[str, Any]
    rows: Mapping[str, list[Row]]
    schema: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> Path:
        """The case as files in `folder/name`; returns the recipe's path."""
        place = folder / self.name
        place.mkdir(parents=True, exist_ok=True)
        for name, rows in self.rows.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (place / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        if self.schema is not None:
            text = json.dumps(self.schema, indent=2) + "\n"
            (place / "answer.schema.json").write_text(text, encoding="utf-8")
        about = {"flaw": self.flaw, "kind": self.kind, "severity_expected": self.severity_expected}
        _dump(place / "case.yaml", about)
        _dump(place / "recipe.yaml", self.recipe)
        return place / "recipe.yaml"


def recipe(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A sound recipe for a few hundred rows on the built-in base, changed key by key.

    None removes a key, or a whole section.
    """
    whole: dict[str, dict[str, Any]] = {
        "base": {"model": "builtin", "quantization": "nf4", "dtype": "float32"},
        "adapter": {
            "r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.1,
            "target_modules": "all-linear",
        },
        "data": {"train": "train.jsonl", "validation": 0.1, "max_length": 512},
        "train": {
            "num_train_epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.05,
            "seed": 42,
            "logging_steps": 10,
        },
        "evaluate": {
            "in_domain": "in_domain.jsonl",
            "out_of_domain": "out_of_domain.jsonl",
            "retention": "builtin:retention",
            "metrics": ["loss", "token_f1", "rouge_l"],
            "primary": "loss",
            "margin": 0.1,
            "max_new_tokens": 160,
        },
    }
    for name, changes in sections.items():
        section = {**whole[name], **changes}
        whole[name] = {key: value for key, value in section.items() if value is not None}
    return {name: section for name, section in whole.items() if section}


@dataclass(frozen=True)
class Sets:
    """Exchanges for each set; no two of one world are alike."""

    train: list[Exchange]
    in_domain: list[Exchange]
    out_of_domain: list[Exchange]

    def rows(self, shape: Callable[[Exchange], Row]) -> dict[str, list[Row]]:
        return {
            "train": [shape(exchange) for exchange in self.train],
            "in_domain": [shape(exchange) for exchange in self.in_domain],
            "out_of_domain": [shape(exchange) for exchange in self.out_of_domain],
        }

    def each(self, change: Callable[[Exchange], Exchange]) -> Sets:
        return Sets(
            [change(exchange) for exchange in self.train],
            [change(exchange) for exchange in self.in_domain],
            [change(exchange) for exchange in self.out_of_domain],
        )


def sets(near: Make, far: Make, seed: int, *, train: int = 300, held_out: int = 120) -> Sets:
    """Train and in-domain rows of `near`, out-of-domain rows of `far`."""
    ours = _pool(near, train + held_out, seed)
    theirs = _pool(far, held_out, seed + 1)
    return Sets(list(ours[:train]), list(ours[train:]), list(theirs))


@cache
def _pool(make: Make, count: int, seed: int) -> tuple[Exchange, ...]:
    return tuple(pool(make, count, seed))


def pair(exchange: Exchange) -> Row:
    """A `prompt_completion` row."""
    return {"prompt": exchange.prompt, "completion": exchange.answer}


def alpaca(instruction: str) -> Callable[[Exchange], Row]:
    """`alpaca` rows under one instruction."""
    return lambda exchange: {
        "instruction": instruction,
        "input": exchange.prompt,
        "output": exchange.answer,
    }


def messages(turns: Iterable[tuple[str, str]], system: str | None = None) -> Row:
    """A `messages` row."""
    said = [("system", system)] if system else []
    return {"messages": [{"role": role, "content": text} for role, text in [*said, *turns]]}


def _dump(path: Path, value: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)
    path.write_text(text, encoding="utf-8")
