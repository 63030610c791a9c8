"""What a plan is for is said, and the same recipe gets the same plan."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from lorakit.cli import main
from lorakit.cli.plan_tables import device_lines, memory_tables
from lorakit.cli.plan_words import setup_lines
from lorakit.plan.plan import plan
from lorakit.plan.result import Plan
from lorakit.recipe import Recipe, parse_recipe
from tests.plan.large_bases import LLAMA_3_1_8B

GIB = 1 << 30


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-layers")
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B | {"num_hidden_layers": 2}))
    return folder


def recipe_of(folder: Path, **base: Any) -> Recipe:
    values = {"model": str(folder), "device": "cpu"} | base
    return parse_recipe({"base": values, "data": {"train": "no/rows.jsonl"}})


@pytest.fixture(scope="module")
def planned(two_layers: Path) -> Plan:
    return plan(recipe_of(two_layers), budget=8 * GIB)


@pytest.mark.parametrize("options", [{"budget": 8 * GIB}, {"is_idle": True}], ids=str)
def test_a_plan_repeats_whatever_is_free(
    two_layers: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 the weights are 6 GiB: some of them would go elsewhere if 6 GiB were free."""
    found = []
    for free in (64, 6):
        memory = SimpleNamespace(available=free * GIB, total=64 * GIB)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        found.append(json.dumps(plan(recipe_of(two_layers), **options).to_json()))
    assert found[0] == found[1]


def test_a_budget_of_a_cpu_offloads_nothing_unasked(two_layers: Path, planned: Plan) -> None:
    little = plan(recipe_of(two_layers), budget=3 * GIB)
    assert little.memory.by_device == {"cpu": little.memory.weights}
    assert little.needed > little.memory.weights > 3 * GIB
    asked = plan(recipe_of(two_layers, offload="disk"), budget=6 * GIB)
    assert asked.memory.by_device["cpu"] <= 0.8 * 6 * GIB
    assert asked.memory.by_device["disk"] > 0


def test_what_was_planned_for_is_said(two_layers: Path, planned: Plan) -> None:
    first, second = setup_lines(planned)
    assert "a budget of 8.00 GiB on this machine's CPU, in float32" in first
    assert "micro-batches of up to" in second
    assert any("--gpu" in note for note in planned.notes)
    assert sum(planned.to_json()["setup"]["recompute"].values()) == 2
    for gpu, dtype in (("rtx4090", "bfloat16"), ("t4", "float32")):
        other = plan(recipe_of(two_layers), gpu=gpu, reads_rows=False)
        assert f"{gpu}, in {dtype}" in next(setup_lines(other))
        assert not any("--gpu" in note for note in other.notes)


@pytest.mark.parametrize("size", ["8", "8.5", "0GB", "1KiB", "8 apples", "-8GB", ""])
def test_a_budget_needs_a_unit_and_room(
    two_layers: Path, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"base": {"model": str(two_layers)}, "data": {"train": "no.jsonl"}}))
    assert main(["plan", str(path), "--budget", size]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert "--budget" in told.err
    assert "6GB" in told.err or "8GB" in told.err


def test_what_does_not_fit_is_a_check_that_failed(
    two_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"base": {"model": str(two_layers)}, "data": {"train": "no.jsonl"}}))
    arguments = ["plan", str(path), "--gpu", "rtx4090", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["fit"]["fits"]
    assert main([*arguments, "--budget", "500MB"]) == 1
    assert not json.loads(capsys.readouterr().out)["fit"]["fits"]


def test_tables_fit_80_columns(planned: Plan) -> None:
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "working", "total")
    methods = {name: dict.fromkeys(parts, 999 * GIB) for name in ("full", "lora", "qlora")}
    shown = StringIO()
    for table in memory_tables(replace(planned, methods=methods)):
        Console(width=80, highlight=False, file=shown).print(table)
    assert "\u2026" not in shown.getvalue()
    for words in ("full fine-tuning", "QLoRA", "gradients", "activations", "working"):
        assert words in shown.getvalue()
    assert "in 1 example," in next(device_lines(planned))
