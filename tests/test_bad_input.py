"""Bad input through the real command line: a clear message, the exit code, nothing half-written.

One row of CASES is one mistake. `Workshop` makes everything right first; a case then breaks one
thing and says which words the message must hold.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from lorakit.cli import main
from lorakit.files import STAGING_PREFIX
from lorakit.recipe import load_recipe

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


def trained_value(name: str, phrase: str, **changes: dict[str, Any]) -> Case:
    """A good recipe with these values changed, which only the model can tell are wrong."""
    return Case(name, phrase, lambda shop: ["train", shop.recipe(**changes)])


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
        "'corda' is not built yet; possible",
        adapter={"init_lora_weights": "corda"},
    ),
    recipe_value(
        "loftq on a dense base",
        "base.quantization is none",
        adapter={"init_lora_weights": "loftq"},
    ),
    recipe_value(
        "an unknown init",
        "'pisa' is not built; possible are",
        adapter={"init_lora_weights": "pisa"},
    ),
    recipe_value("int3", "base.quantization", base={"quantization": "int3"}),
    recipe_value(
        "blocks of int8",
        "base.quantization is int8; remove it, or set it to nf4 or fp4",
        base={"quantization": "int8", "block_size": 64},
    ),
    recipe_value("grpo without rewards", "grpo.rewards is empty", train={"method": "grpo"}),
    recipe_value("rewards without grpo", "train.method is sft", grpo={"rewards": ["math"]}),
    recipe_value("warm start without grpo", "train.method is sft", warm_start={"max_steps": 1}),
    recipe_value(
        "revision of the built-in base",
        "base.model is builtin",
        base={"model": "builtin", "revision": "main"},
    ),
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
    recipe_value("optimizer of transformers", "is not built yet", train={"optim": "lion_8bit"}),
    trained_value(
        "too little for pages",
        "holds no two pages",
        train={"optim": "paged_adamw_32bit", "optim_memory": "1KB"},
    ),
    trained_value(
        "no size",
        "Fix train.optim_memory",
        train={"optim": "paged_adamw_32bit", "optim_memory": "lots"},
    ),
    trained_value(
        "no embedding for LoRA+",
        "no embedding is adapted",
        train={"loraplus_lr_ratio": 4, "loraplus_lr_embedding": 1e-5},
    ),
    recipe_value("device without storage", "Possible: auto, cpu, cuda", base={"device": "meta"}),
    recipe_value("seed too large", "less than", train={"seed": 2**64}),
    recipe_value("data path empty", "data.train is empty", data={"train": ""}),
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

DATA_CASES = [
    recipe_value("data missing", "no.jsonl", data={"train": "folder/no.jsonl"}),
    rows_text("data empty", "no rows", ""),
    rows_text(
        "broken JSON",
        "rows.jsonl:2: broken JSON",
        '{"prompt": "a", "completion": "b"}\n{"prompt"\n',
    ),
    rows_text("JSON line is a list", "rows.jsonl:1", "[1, 2]\n"),
    rows_text("data not UTF-8", "rows.jsonl:1", b'{"prompt": "caf\xe9", "completion": "b"}\n'),
    rows_text("half a surrogate", "rows.jsonl:1", b'{"prompt": "\\ud800", "completion": "b"}\n'),
    rows_text("JSON NaN", "rows.jsonl:1", '{"prompt": NaN, "completion": "b"}\n'),
    rows_text(
        "JSON key twice", "rows.jsonl:1", '{"prompt": "a", "prompt": "b", "completion": "c"}\n'
    ),
    rows_text("unknown suffix", "is not a data format", "a,b\n", file="rows.xyz"),
    rows_text("ragged CSV", "rows.csv:3", "prompt,completion\na,b\na,b,c\n", file="rows.csv"),
    rows_text("broken Parquet", "rows.parquet", b"PAR1 not really", file="rows.parquet"),
    rows_values("empty answers", "completion", [{"prompt": "a", "completion": " "}] * 4),
    rows_values("answer not text", "completion", [{"prompt": "a", "completion": 3}] * 4),
    rows_values("answer missing", "rows.jsonl:2", [*GOOD_ROWS[:1], {"prompt": "a"}]),
    rows_values("unknown columns", "no row format reads the columns", [{"foo": "a", "bar": "b"}]),
    rows_values(
        "column not there", "no column 'question'", GOOD_ROWS, columns={"prompt": "question"}
    ),
    rows_values(
        "mapping without effect",
        "does not read",
        GOOD_ROWS,
        columns={"text": "prompt"},
        format="alpaca",
    ),
    rows_values(
        "no trained token",
        "trained",
        [{"messages": [{"role": "user", "content": "hello"}]}] * 4,
    ),
    rows_values(
        "unknown role", "rows.jsonl:1", [{"messages": [{"role": "robot", "content": "a"}]}]
    ),
    rows_values("messages not a list", "rows.jsonl:1", [{"messages": "hello"}]),
    rows_values("all rows too long", "max_length", GOOD_ROWS, max_length=4),
    rows_values("too long is an error", "max_length", GOOD_ROWS, max_length=4, too_long="error"),
    rows_values("longer than the context", "256", GOOD_ROWS, max_length=100_000),
    rows_values("validation missing", "no.jsonl", GOOD_ROWS, validation="folder/no.jsonl"),
    rows_values("validation takes every row", "validation", GOOD_ROWS[:1], validation=0.5),
    rows_values("group column missing", "topic", GOOD_ROWS, validation=0.5, group="topic"),
    rows_values("template file missing", "no.jinja", GOOD_ROWS, chat_template="no.jinja"),
    Case(
        "broken template",
        "template",
        lambda shop: [
            "train",
            shop.recipe(data={"chat_template": str(shop.file("t.jinja", "{% for message in %}"))}),
        ],
    ),
    Case(
        "test set missing",
        "no.jsonl",
        lambda shop: ["train", shop.recipe(evaluate={"in_domain": "folder/no.jsonl"})],
    ),
]


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def header_too_large(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes((1 << 62).to_bytes(8, "little") + weights.read_bytes()[8:])


def index_outside(folder: Path) -> None:
    weights = folder / "model.safetensors"
    outside = weights.rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": f"../{outside.name}"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_without_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {
        "metadata": {},
        "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwritten(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


MODEL_CASES = [
    trained_value("model missing", "./no-such-model", base={"model": "./no-such-model"}),
    trained_value("unknown device", "quantum", base={"device": "quantum"}),
    trained_value("dtype typo", "'float32'", base={"dtype": "float23"}),
    trained_value(
        "device memory not a size", "max_device_memory", base={"max_device_memory": "lots"}
    ),
    recipe_value("checked targets", "q_proj", adapter={"target_modules": ["q_prj"]}),
    trained_value("targets match nothing", "q_proj", adapter={"target_modules": ["q_prj"]}),
    trained_value("target regex broken", "target_modules", adapter={"target_modules": "("}),
    trained_value(
        "rank pattern matches nothing", "rank_pattern", adapter={"rank_pattern": {"x_proj": 4}}
    ),
    trained_value(
        "module to save missing", "modules_to_save", adapter={"modules_to_save": ["head"]}
    ),
    trained_value("bias of none", "bias", adapter={"bias": "all"}),
    Case(
        "adapter missing",
        "no-adapter",
        lambda shop: ["train", shop.recipe(), "--set", "adapter={path: no-adapter}"],
    ),
    model_files("no config", "config.json", without("config.json")),
    model_files("broken config", "config.json", overwritten("config.json", "{")),
    model_files("config is a list", "config.json", overwritten("config.json", "[]")),
    model_config("auto_map", "auto_map", auto_map={"AutoModelForCausalLM": "model.Evil"}),
    model_config("model_type with newline", "model_type", model_type="llama\nimport os"),
    model_config("model_type unknown", "model_type", model_type="lama"),
    model_config("model_type of no language model", "model_type", model_type="vit"),
    model_config("huge vocabulary", "vocab_size", vocab_size=1 << 40),
    model_config("quantized checkpoint", "quantized", quantization_config={"quant_method": "gptq"}),
    model_config("other hidden size", "shape", hidden_size=64),
    model_files("no weights", "safetensors", without("model.safetensors")),
    model_files("pickled weights", "pytorch_model.bin", pickled),
    model_files("truncated weights", "model.safetensors", truncated),
    model_files("header beyond the file", "model.safetensors", header_too_large),
    model_files("shard outside the folder", "outside.safetensors", index_outside),
    model_files("shard missing", "model-00001-of-00001", index_without_shard),
    model_files("no tokenizer", "no tokenizer", without_tokenizer),
    model_files("broken tokenizer", "tokenizer", overwritten("tokenizer.json", "{}")),
]


def filled_output(shop: Workshop) -> list[str]:
    (shop.folder / "run").mkdir()
    shop.file("run/thesis.txt", "precious")
    return ["train", shop.recipe()]


OUTPUT_CASES = [
    Case("output not empty", "not empty", filled_output),
    Case(
        "output is a file",
        "is a file",
        lambda shop: ["train", shop.recipe(), "--output", str(shop.folder / "rows.jsonl")],
    ),
    Case(
        "output below a file",
        "not a folder",
        lambda shop: ["train", shop.recipe(), "--output", str(shop.folder / "rows.jsonl" / "run")],
        exit_code=1,
    ),
    # Root may write to read-only folders, but nobody may make a folder in /sys.
    Case(
        "output read-only",
        "/sys/lorakit-run",
        lambda shop: ["train", shop.recipe(), "--output", "/sys/lorakit-run"],
        exit_code=1,
    ),
    Case(
        "resume into another folder",
        "holds no run to resume",
        lambda shop: [*filled_output(shop), "--resume"],
    ),
    Case(
        "resume nothing",
        "no run to resume",
        lambda shop: ["train", shop.recipe(), "--resume"],
    ),
    Case("evaluate no run", "no run folder", lambda shop: ["evaluate", str(shop.folder / "no")]),
    Case("evaluate another folder", "no run folder", lambda shop: ["evaluate", str(shop.folder)]),
    Case(
        "merge no run",
        "no run folder",
        lambda shop: ["merge", str(shop.folder), "--output", str(shop.folder / "merged")],
    ),
    Case(
        "merge with blocks that nothing has",
        "--block-size cannot take effect in a merge that packs nothing",
        lambda shop: [
            *("merge", str(shop.folder), "--output", str(shop.folder / "merged")),
            *("--block-size", "64"),
        ],
    ),
    Case(
        "merge with blocks of int8",
        "--double-quantization cannot take effect because --quantize is int8",
        lambda shop: [
            *("merge", str(shop.folder), "--output", str(shop.folder / "merged")),
            *("--quantize", "int8", "--no-double-quantization"),
        ],
    ),
    Case(
        "quantize no model",
        "no config.json",
        lambda shop: ["quantize", str(shop.folder), "--output", str(shop.folder / "packed")],
    ),
    Case(
        "quantize to where something is",
        "not an empty folder",
        lambda shop: ["quantize", "builtin", "--output", str(shop.folder)],
    ),
    Case(
        "quantize to below a file",
        "rows.jsonl is a file, not a folder",
        lambda shop: ["quantize", "builtin", "--output", str(shop.folder / "rows.jsonl" / "out")],
    ),
    Case(
        "blocks of int8 on disk",
        "--block-size cannot take effect because --quantization is int8",
        lambda shop: [
            *("quantize", "builtin", "--output", str(shop.folder / "packed")),
            *("--quantization", "int8", "--block-size", "64"),
        ],
    ),
]

CASES = [*RECIPE_CASES, *COMMAND_CASES, *DATA_CASES, *MODEL_CASES, *OUTPUT_CASES]


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


AS_PROCESSES = ["recipe missing", "key typo", "no such command", "broken JSON", "auto_map"]


@pytest.mark.parametrize("name", AS_PROCESSES)
def test_bad_input_to_the_process(name: str, shop: Workshop) -> None:
    case = next(case for case in CASES if case.name == name)
    done = run_process(case.arguments(shop))
    assert done.returncode == case.exit_code
    assert case.phrase.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def run_process(
    arguments: list[str], preexec: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorakit", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=preexec,
        check=False,
    )


def assert_every_file_is_whole(run: Path) -> None:
    """No staging file is left, JSON parses, recipe and checkpoints read back as written."""
    for path in sorted(run.rglob("*")):
        assert not path.name.startswith(STAGING_PREFIX), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert tensors.keys()
        if path.name == "manifest.json":
            for name, entry in json.loads(path.read_text())["files"].items():
                stored = (path.parent / name).read_bytes()
                assert hashlib.sha256(stored).hexdigest() == entry["sha256"]
    if (run / "recipe.yaml").exists():
        load_recipe(run / "recipe.yaml")


def disk_full_from(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its `number`th call on, fsync answers as a full disk does."""
    calls = iter(range(number))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [0, 1, 2, 4, 7, 11, 16, 22])
def test_a_disk_that_fills_up(
    number: int,
    shop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = shop.recipe(train={"max_steps": 2, "save_steps": 1})
    with monkeypatch.context() as patched:
        disk_full_from(number, patched)
        assert main(["train", recipe]) == 1
    shown = capsys.readouterr().err
    assert os.strerror(errno.ENOSPC) in shown
    assert "Traceback" not in shown
    run = shop.folder / "run"
    assert_every_file_is_whole(run)
    assert main(["train", recipe, "--resume"]) == 0
    assert_every_file_is_whole(run)
    assert (run / "evaluation.json").is_file()


def test_a_file_that_may_not_grow(shop: Workshop) -> None:
    recipe = shop.recipe(adapter={"r": 16})
    limit = (16_384, 16_384)  # the adapter is larger
    done = run_process(["train", recipe], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1, done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert "Traceback" not in done.stderr
    assert_every_file_is_whole(shop.folder / "run")
