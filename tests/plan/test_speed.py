"""A plan of a large base takes seconds, whether or not the recipe fits."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

import pytest

from lorakit.cli import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# CPU seconds of a plan beside its imports. 5 are promised (issue 6); on a core that others use as
# well the same plan was seen to take twice what it takes on one left alone, and CI's are slower.
MOST_SECONDS = 15.0
MOST_BYTES = 2 * 10**9
BASES = ("8b", "70b", "235b-a22b")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("plan_speed")


@pytest.mark.slow  # the largest base, which fits no GPU count: every change is planned
@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("base", BASES)
def test_a_plan_takes_seconds_beside_its_imports(
    base: str, gpus: int, speed: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = speed.recipe_of(base, "nf4", tmp_path)  # type: ignore[attr-defined]
    words = ["plan", str(recipe), "--gpu", "h200", "--gpus", str(gpus), "--json"]
    began = time.process_time()
    main(words)
    spent = time.process_time() - began
    told = json.loads(capsys.readouterr().out)
    assert told["devices"]["count"] == gpus
    assert told["fit"]["fits"] == (base != "235b-a22b")
    assert spent < MOST_SECONDS


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


@pytest.mark.slow
def test_a_plan_of_the_largest_base_takes_little_memory(speed: object, tmp_path: Path) -> None:
    took = importlib.import_module("took")
    recipe = speed.recipe_of("235b-a22b", "nf4", tmp_path)  # type: ignore[attr-defined]
    words = ["plan", str(recipe), "--gpu", "h200", "--gpus", "8", "--json"]
    ended = took.run(
        [sys.executable, "-m", "lorakit", *words],
        output=tmp_path / "out.json",
        errors=tmp_path / "err.txt",
        environment=dict(os.environ),
    )
    assert json.loads((tmp_path / "out.json").read_text())["devices"]["count"] == 8
    assert ended.peak_bytes < MOST_BYTES
