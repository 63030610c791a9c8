"""Bad input through the real command line: a clear message, the exit code, nothing half-written.

One row of CASES is one mistake. `Workshop` makes everything right first; a case then breaks one
thing and says which words the message must hold.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorakit.cli import main

GOOD_ROWS = [
    {"prompt": f"What helps against complaint {n}?", "completion": f"Rest helps, {n} days."}
    for n in range(12)
]


class Workshop:
    """A recipe, its data and its model that work, in one folder, ready to be broken."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.values: dict[str, Any] = {
            "base": {"model": str(model), "dtype": "float32", "device": "cpu"},
            "adapter": {"r": 2},
            "data": {"train": str(folder / "rows.jsonl")},
            "train": {"max_steps": 1, "batch_size": 2},
            "output": {"dir": str(folder / "run")},
        }
        self.rows(GOOD_ROWS)

    def rows(self, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        return self.file(name, "".join(json.dumps(row) + "\n" for row in rows))

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def recipe(self, **changes: dict[str, Any]) -> str:
        """Write the recipe with sections updated; returns its path."""
        for section, options in changes.items():
            self.values.setdefault(section, {}).update(options)
        return str(self.file("recipe.yaml", yaml.safe_dump(self.values)))

    def model_copy(self) -> Path:
        """A model folder of this test's own, and the recipe's base from now on."""
        copy = self.folder / "model"
        shutil.copytree(self.model, copy)
        self.values["base"]["model"] = str(copy)
        return copy

    def config(self, **changes: Any) -> str:
        """A recipe whose model's config.json was changed."""
        path = self.model_copy() / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return self.recipe()


@dataclass(frozen=True)
class Case:
    """One mistake: `arguments(workshop)` makes it and returns the command line."""

    name: str
    phrase: str
    arguments: Callable[[Workshop], list[str]]
    exit_code: int = 2


def recipe_text(name: str, phrase: str, text: str | bytes) -> Case:
    """A recipe file with this text."""
    return Case(name, phrase, lambda shop: ["check", str(shop.file("recipe.yaml", text))])


def recipe_value(name: str, phrase: str, **changes: dict[str, Any]) -> Case:
    """A good recipe with these values changed."""
    return Case(name, phrase, lambda shop: ["check", shop.recipe(**changes)])


def override(name: str, phrase: str, text: str) -> Case:
    """A good recipe with this --set."""
    return Case(name, phrase, lambda shop: ["check", shop.recipe(), "--set", text])


def rows_text(name: str, phrase: str, content: str | bytes, file: str = "rows.jsonl") -> Case:
    """Training data with this content."""

    def arguments(shop: Workshop) -> list[str]:
        path = shop.file(file, content)
        return ["train", shop.recipe(data={"train": str(path)})]

    return Case(name, phrase, arguments)


def rows_values(name: str, phrase: str, rows: list[Any], **data: Any) -> Case:
    """Training data with these rows, and these options in the data section."""

    def arguments(shop: Workshop) -> list[str]:
        shop.rows(rows)
        return ["train", shop.recipe(data=data)]

    return Case(name, phrase, arguments)


def model_config(name: str, phrase: str, **changes: Any) -> Case:
    """A model whose config.json says this."""
    return Case(name, phrase, lambda shop: ["train", shop.config(**changes)])


def model_files(name: str, phrase: str, break_it: Callable[[Path], object]) -> Case:
    """A model folder after `break_it(folder)`."""

    def arguments(shop: Workshop) -> list[str]:
        break_it(shop.model_copy())
        return ["train", shop.recipe()]

    return Case(name, phrase, arguments)


MINIMAL = "base: {model: m}\ndata: {train: rows.jsonl}\n"

RECIPE_CASES = [
    Case("recipe missing", "no such file", lambda shop: ["train", str(shop.folder / "no.yaml")]),
    Case("recipe is a folder", "a folder", lambda shop: ["train", str(shop.folder)]),
    recipe_text("recipe empty", "base is missing", ""),
    recipe_text("recipe is a list", "a recipe is keys with values", "- a\n- b\n"),
    recipe_text("recipe is a word", "a recipe is keys with values", "hello\n"),
    recipe_text("recipe not UTF-8", "recipe.yaml:2: invalid UTF-8", b"base:\n  model: caf\xe9\n"),
    recipe_text("recipe broken YAML", "recipe.yaml:2", "base: {model: m\ndata: }\n"),
    recipe_text("recipe with tab", "recipe.yaml:2", "base:\n\tmodel: m\n"),
    recipe_text("recipe with NUL", "not valid YAML", MINIMAL + "# \0\n"),
    recipe_text("recipe too large", "larger than 1048576 bytes", "#" * (1 << 20) + "\n" + MINIMAL),
    recipe_text("recipe too deep", "nested too deeply", "a: " + "[" * 50_000),
    recipe_text("recipe with python tag", "not valid YAML", "base: !!python/object:os.system {}\n"),
    recipe_text(
        "key twice", "'model' is written twice, first in line 2", "base:\n  model: a\n  model: b\n"
    ),
    recipe_text("alias bomb", "more than 100 aliases", "a: &a x\nb: [" + "*a, " * 101 + "]\n"),
    recipe_text("section typo", "did you mean base?", "bass: {model: m}\ndata: {train: a}\n"),
    recipe_text("section is a word", "not keys with values", "base: m\ndata: {train: a}\n"),
    recipe_text("no data", "data is missing", "base: {model: m}\n"),
    recipe_text("no train", "data.train is missing", "base: {model: m}\ndata: {}\n"),
    recipe_value("key typo", "did you mean lora_alpha?", adapter={"lora_apha": 4}),
    recipe_value(
        "key of another section", "did you mean train.learning_rate?", adapter={"learning_rate": 1}
    ),
    recipe_value(
        "key of another tool",
        "here it is train.batch_size",
        train={"per_device_train_batch_size": 1},
    ),
    recipe_value("rank zero", "adapter.r should be greater than or equal to 1", adapter={"r": 0}),
    recipe_value("rank true", "adapter.r should be a number", adapter={"r": True}),
    recipe_value("rank a word", "adapter.r should be a valid integer", adapter={"r": "many"}),
    recipe_value("rank a fraction", "adapter.r should be a valid integer", adapter={"r": 1.5}),
    recipe_value("alpha not finite", "adapter.lora_alpha", adapter={"lora_alpha": float("inf")}),
    recipe_value("learning rate negative", "greater than 0", train={"learning_rate": -1e-4}),
    recipe_value("learning rate NaN", "train.learning_rate", train={"learning_rate": float("nan")}),
    recipe_value(
        "dropout one", "adapter.lora_dropout should be less than 1", adapter={"lora_dropout": 1}
    ),
    recipe_value(
        "unknown schedule", "'cosine', 'linear' or 'constant'", train={"lr_scheduler_type": "cosin"}
    ),
    recipe_value(
        "warm-up twice", "give one of them", train={"warmup_steps": 1, "warmup_ratio": 0.1}
    ),
    recipe_value("dora and lora", "use_dora is true", adapter={"kind": "lora", "use_dora": True}),
    recipe_value("unknown kind", "'vera' is not known", adapter={"kind": "vera"}),
    recipe_value(
        "init not built",
        "'pissa' is not built yet; possible",
        adapter={"init_lora_weights": "pissa"},
    ),
    recipe_value(
        "fp4", "'fp4' is not built yet; possible: none, nf4", base={"quantization": "fp4"}
    ),
    recipe_value("grpo", "'grpo' is not built yet; possible: sft", train={"method": "grpo"}),
    recipe_value("built-in base", "'builtin' is not built yet", base={"model": "builtin"}),
    recipe_value("block size without nf4", "cannot take effect", base={"block_size": 64}),
    recipe_value("group without fraction", "cannot take effect", data={"group": "prompt"}),
    recipe_value("eval_steps alone", "data.validation is not set", train={"eval_steps": 1}),
    recipe_value(
        "patience alone", "data.validation is not set", train={"early_stopping_patience": 1}
    ),
    recipe_value("unknown format", "did you mean alpaca?", data={"format": "alpacca"}),
    recipe_value(
        "unknown metric", "'rouge' is not known", evaluate={"in_domain": "a", "metrics": ["rouge"]}
    ),
    recipe_value("unknown placeholder", "{nmae}", output={"dir": "runs/{nmae}"}),
    override("override without value", "not of the form section.key=value", "adapter.r"),
    override("override typo", "--set adapter.rnak=3", "adapter.rnak=3"),
    override("override broken YAML", "not valid YAML", "adapter.target_modules=[q_proj"),
    override("override through a word", "which has no keys", "data.train.path=x"),
]

COMMAND_CASES = [
    Case("no such command", "No such command", lambda shop: ["trian", shop.recipe()]),
    Case(
        "no such option", "No such option", lambda shop: ["train", shop.recipe(), "--epochs", "3"]
    ),
    Case("no recipe", "Missing argument", lambda shop: ["train"]),
    Case(
        "unknown template",
        "did you mean qlora_dora?",
        lambda shop: ["new", str(shop.folder / "n.yaml"), "--template", "qlora_dra"],
    ),
    Case("template over a file", "not overwritten", lambda shop: ["new", shop.recipe()]),
    Case("new without a path", "no PATH was given", lambda shop: ["new"]),
    Case(
        "template into no folder",
        "does not exist",
        lambda shop: ["new", str(shop.folder / "no" / "n.yaml")],
    ),
    Case(
        "unknown GPU",
        "did you mean h100?",
        lambda shop: ["plan", shop.recipe(), "--gpu", "h1000"],
    ),
]

CASES = [*RECIPE_CASES, *COMMAND_CASES]


@pytest.fixture
def shop(tmp_path: Path, tiny_folder: Path) -> Workshop:
    return Workshop(tmp_path, tiny_folder)


def contents(folder: Path) -> dict[str, str]:
    """{path below folder: hash of its bytes, or "folder"}."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }


def test_the_battery_is_as_large_as_promised() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_what_the_cases_break_works_unbroken(shop: Workshop) -> None:
    assert main(["train", shop.recipe()]) == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_bad_input(case: Case, shop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = case.arguments(shop)
    before = contents(shop.folder)
    exit_code = main(arguments)
    shown = capsys.readouterr()
    assert case.phrase.lower() in shown.err.lower(), shown.err
    assert exit_code == case.exit_code, shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert contents(shop.folder) == before
