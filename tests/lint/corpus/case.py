"""A recipe with its data, before it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

import lorakit
from lorakit.base.from_recipe import load_tokenizer_of_base
from lorakit.data.contract import Finding
from lorakit.data.named_sets import NamedSets, prepare_named_sets
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import Hardware
from lorakit.plan.plan import plan
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe
from lorakit.train.memory import Room
from tests.lint.corpus.rows import Row, answered

Ready = tuple[PreTrainedTokenizerBase, PreTrainedConfig, NamedSets]
_READY: dict[
    str, Ready
] = {}  # {what it is made of: the last one}, as most recipes share their data

CPU = Hardware("cpu", "this CPU", has_bfloat16=False, chosen=True)


@dataclass(frozen=True)
class Case:
    """A recipe with its data.

    Attributes:
        train: rows, or plain text.
        sections: of the recipe, over those of a sound one.
        sets: further files {name: rows}; the recipe names them as `{name}`.
        files: further files {name: text}.
        hardware: what would train.
        measured: whether the built-in sets are named to measure on, where no evaluation is given.
        base: prepares the base folder in a folder and returns its path; None: the built-in one.
        room: what is free and what there is of the device's memory, as shares of what the run
            needs; None: not known.
        is_note: of a flawed one: worth a note and no more.
    """

    train: list[Row] | str = field(default_factory=lambda: _usual())
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sets: Mapping[str, list[Row]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    hardware: Hardware = CPU
    measured: bool = True
    base: Callable[[Path], Path] | None = None
    room: tuple[float, float] | None = None
    is_note: bool = False

    def facts(self, folder: Path, cache_dir: Path) -> Facts:
        """What rules see of it; its files are written to `folder`, tokens kept in `cache_dir`."""
        suffix = "txt" if isinstance(self.train, str) else "jsonl"
        (folder / f"train.{suffix}").write_text(_text(self.train), encoding="utf-8")
        for name, rows in self.sets.items():
            (folder / f"{name}.jsonl").write_text(_text(rows), encoding="utf-8")
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        recipe = lorakit.parse_recipe(self._values(folder, suffix))
        tokenizer, config, sets = self._prepared(recipe, cache_dir)
        make_plan = cache(lambda: plan(recipe, sets=Sets.of(sets)))
        hardware = self.hardware
        if self.room is not None:
            free, total = (int(share * make_plan().needed) for share in self.room)
            hardware = replace(hardware, room=Room(free, total))
        return Facts(recipe, sets, tokenizer, config, hardware, make_plan)

    def _prepared(self, recipe: Recipe, cache_dir: Path) -> Ready:
        """Tokenizer, config and sets; those of the case before where they are the same."""
        others = {k: v for k, v in self.sections.items() if k not in ("adapter", "train", "check")}
        key = json.dumps([str(cache_dir), self.train, others, dict(self.sets), self.measured])
        if self.base is None and not self.files and key in _READY:
            return _READY[key]
        tokenizer, config = load_tokenizer_of_base(recipe.base)
        ready = (
            tokenizer,
            config,
            prepare_named_sets(recipe, tokenizer, config, cache_dir=cache_dir),
        )
        if self.base is None and not self.files:
            _READY.clear()
            _READY[key] = ready
        return ready

    def _values(self, folder: Path, suffix: str) -> dict[str, Any]:
        model = "builtin" if self.base is None else str(self.base(folder / "base"))
        values: dict[str, dict[str, Any]] = {
            "base": {"model": model, "device": "cpu"},
            "adapter": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.1},
            "data": {"train": f"{{train.{suffix}}}"},
            "train": {"num_train_epochs": 3, "learning_rate": 2e-4, "batch_size": 8},
        }
        if self.measured or "evaluate" in self.sections:
            values["evaluate"] = {
                name: f"builtin:{name}" for name in ("in_domain", "out_of_domain", "retention")
            }
        for section, given in self.sections.items():
            merged = values.get(section, {}) | dict(given)
            values[section] = {key: value for key, value in merged.items() if value is not None}
        return {name: _placed(section, folder) for name, section in values.items()}


@cache
def _usual() -> list[Row]:
    return answered(240)


def _placed(value: Any, folder: Path) -> Any:
    """`{name.jsonl}` becomes the file's path."""
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        return str(folder / value[1:-1])
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    return [_placed(item, folder) for item in value] if isinstance(value, list) else value


def _text(rows: list[Row] | str) -> str:
    return rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)


def told(findings: list[Finding]) -> str:
    """For messages of tests."""
    return "\n".join(f"{one.severity} {one.id}: {one.message} ({one.where})" for one in findings)
