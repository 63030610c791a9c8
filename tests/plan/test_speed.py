"""The command `lorakit plan` of a large base takes seconds, whether or not the recipe fits."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.cli import main
from lorakit.recipe import Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# CPU seconds of a whole command, in units of what one takes that imports torch and the model's file
# and does nothing: the same on every machine, and on one that others use as well.
MOST_UNITS = 2.0
MOST_BYTES = 2 * 10**9
BASES = ("8b", "70b", "235b-a22b")
IMPORTING = "import torch, transformers.models.qwen3_moe.modeling_qwen3_moe"
RUNS = 2  # of which the least counts
LISTING = """
import gc, json, sys
from lorakit.cli import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"modules": list(sys.modules), "frozen": gc.get_freeze_count()}, file)
sys.exit(code)
"""
ENDING = """
import atexit
from lorakit import cli
atexit.register(print, "taken apart")
cli.main = lambda: print("told\\n" * 1000, end="") or 1
cli.run()
"""
# What some other verb, metric, format or library uses.
NOT_NEEDED = (
    "bitsandbytes",
    "bm25s",
    "datasets",
    "datasketch",
    "jsonschema",
    "matplotlib",
    "nltk",
    "numba",
    "pandas",
    "peft",
    "pyarrow",
    "trl",
)
FAMILY_FILE = re.compile(r"transformers\.models\.(\w+)\.modeling_\1")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("plan_speed")


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> float:
    """CPU seconds of a process that imports what no plan can do without."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        took = importlib.import_module("took")
    finally:
        sys.path.remove(str(BENCHMARKS))
    folder = tmp_path_factory.mktemp("unit")
    ended = [
        took.run(
            [sys.executable, "-c", IMPORTING],
            output=folder / "out.txt",
            errors=folder / "err.txt",
            environment=dict(os.environ),
        )
        for _ in range(RUNS)
    ]
    assert all(one.code == 0 for one in ended)
    return float(min(one.cpu_seconds for one in ended))


@pytest.mark.slow  # a dozen commands
@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("storage", ["none", "nf4"])
@pytest.mark.parametrize("base", BASES)
def test_a_command_takes_seconds_and_little_memory(
    base: str, storage: str, adapter: str, speed: object, tmp_path: Path, unit: float
) -> None:
    """The largest base fits no GPU: every change is planned."""
    recipe = speed.recipe_of(base, storage, tmp_path, adapter)  # type: ignore[attr-defined]
    planned = speed.plan(recipe, "h200", 8, RUNS)  # type: ignore[attr-defined]
    assert planned["fits"] == (base == "8b" or (base == "70b" and storage == "nf4"))
    assert planned["cpu_seconds"] < MOST_UNITS * unit
    assert planned["peak_bytes"] < MOST_BYTES


def test_a_command_imports_what_its_base_needs(speed: object, tmp_path: Path) -> None:
    """Not the files of other families, nor what other verbs need; and the search for cycles does
    not go through what libraries made."""
    recipe = speed.recipe_of("8b", "nf4", tmp_path)  # type: ignore[attr-defined]
    words = ["plan", str(recipe), "--gpu", "h200", "--json"]
    listed = tmp_path / "listed.json"
    done = subprocess.run(
        [sys.executable, "-c", LISTING, str(listed), *words], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(listed.read_text())
    families = {match[1] for match in map(FAMILY_FILE.fullmatch, found["modules"]) if match}
    assert families == {"auto", "llama"}
    assert not [name for name in NOT_NEEDED if name in found["modules"]]
    assert found["frozen"] > 100_000


class Counts:
    """What the plans of a command make anew.

    Attributes:
        bases: sections of each base that was built, without how its weights are stored.
        passes: of each rehearsal, model, storages, micro-batch and levels of recompute.
        plans: how many there were.
    """

    def __init__(self) -> None:
        self.bases: list[str] = []
        self.passes: list[tuple[object, ...]] = []
        self.plans = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    from lorakit.plan import blueprint, plan, trial

    found = Counts()
    build, rehearse, first_plan = blueprint._build, blueprint.rehearse, plan.plan
    unlike = {*blueprint.STORAGE, *blueprint.OF_TARGET}

    def counted_build(recipe: Recipe, *args: Any) -> Any:
        base = recipe.base.model_dump_json(exclude=unlike)
        found.bases.append(base + recipe.adapter.model_dump_json())
        return build(recipe, *args)

    def counted_rehearsal(
        model: nn.Module, adapter: Any, shape: Any, policy: Any, **options: Any
    ) -> Any:
        levels = policy.levels(options["layers"].bytes, shape.num_tokens)
        frozen = [m for m in model.modules() if isinstance(m, FrozenLinear | FrozenExperts)]
        storages = frozenset(type(module.stored) for module in frozen)
        found.passes.append((id(model), storages, shape, tuple(levels), options["trains"]))
        return rehearse(model, adapter, shape, policy, **options)

    def counted_plan(*args: Any, **options: Any) -> Any:
        found.plans += 1
        return first_plan(*args, **options)

    monkeypatch.setattr(blueprint, "_build", counted_build)
    monkeypatch.setattr(blueprint, "rehearse", counted_rehearsal)
    monkeypatch.setattr(plan, "plan", counted_plan)
    monkeypatch.setattr(trial, "plan", counted_plan)
    return found


def few_layers(speed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speed.LARGE, "8b", speed.LARGE["8b"] | {"num_hidden_layers": 4})


@pytest.mark.parametrize(
    ("base", "storage", "num_passes", "num_plans"),
    [
        ("8b", "nf4", 2, 2),  # as it is, and LoRA in 16 bit
        ("8b", "none", 2, 2),  # as it is, and QLoRA
        # Weights are offloaded: nothing but another storage and offloading is asked further.
        ("70b", "none", 2, 4),
    ],
)
def test_a_plan_makes_no_more_than_it_must(
    base: str,
    storage: str,
    num_passes: int,
    num_plans: int,
    speed: Any,
    counts: Counts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few_layers(speed, monkeypatch)
    recipe = speed.recipe_of(base, storage, tmp_path)
    main(["plan", str(recipe), "--gpu", "h200", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["fit"]["fits"] == (base == "8b")
    assert told["methods"].keys() == {"full", "lora", "qlora"}
    assert len(counts.bases) == 1
    assert (len(counts.passes), counts.plans) == (num_passes, num_plans)


def test_no_plan_of_a_change_builds_the_base_again(
    speed: Any,
    counts: Counts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a base that fits nowhere many changes are planned; bases with other adapters are built,
    each once, however their weights are stored, and each shape of a pass is rehearsed once."""
    few_layers(speed, monkeypatch)
    recipe = speed.recipe_of("8b", "none", tmp_path)
    main(
        [
            "plan",
            str(recipe),
            "--gpu",
            "h200",
            "--budget",
            "4.6GB",
            "--set",
            "adapter.r=64",
            "--json",
        ]
    )
    assert not json.loads(capsys.readouterr().out)["fit"]["fits"]
    assert len(set(counts.bases)) == len(counts.bases)
    assert len(set(counts.passes)) == len(counts.passes) > 1


@pytest.mark.parametrize(("verb", "waits"), [("plan", False), ("train", True)])
def test_the_process_of_a_plan_is_not_taken_apart(verb: str, waits: bool) -> None:
    """What it printed is there in full, and so is its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING, "-q", verb, "recipe.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == "told\n" * 1000 + "taken apart\n" * waits
