"""The command `lorakit plan` of a large base takes seconds, whether or not the recipe fits."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.cli import main

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


def test_no_plan_of_a_change_builds_the_base_again(
    speed: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a base that fits nowhere a dozen changes are planned; bases with other weights or other
    adapters are built, each once, and each shape of a pass is rehearsed once."""
    from lorakit.plan import blueprint

    bases: list[str] = []
    passes: list[tuple[object, ...]] = []
    build, rehearse = blueprint._build, blueprint.rehearse

    def counted_build(recipe: object, *args: object, **options: object) -> object:
        same = {"dtype", "offload", "max_device_memory"}
        base = recipe.base.model_dump_json(exclude=same)  # type: ignore[attr-defined]
        bases.append(base + recipe.adapter.model_dump_json())  # type: ignore[attr-defined]
        return build(recipe, *args, **options)  # type: ignore[arg-type]

    def counted_rehearsal(
        model: object, adapter: object, shape: object, policy: object, **options: object
    ) -> object:
        levels = policy.levels(options["layers"].bytes, shape.num_tokens)  # type: ignore[attr-defined]
        passes.append((id(model), shape, tuple(levels), options["trains"]))
        return rehearse(model, adapter, shape, policy, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(blueprint, "_build", counted_build)
    monkeypatch.setattr(blueprint, "rehearse", counted_rehearsal)
    monkeypatch.setitem(
        speed.LARGE,  # type: ignore[attr-defined]
        "8b",
        speed.LARGE["8b"] | {"num_hidden_layers": 4},  # type: ignore[attr-defined]
    )
    recipe = speed.recipe_of("8b", "none", tmp_path)  # type: ignore[attr-defined]
    main(["plan", str(recipe), "--gpu", "h200", "--budget", "4.6GB", "--json"])
    assert not json.loads(capsys.readouterr().out)["fit"]["fits"]
    assert len(set(bases)) == len(bases) > 3
    assert len(set(passes)) == len(passes) > 3
