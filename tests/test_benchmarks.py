"""Benchmarks run for hours: what they ask of the command line is checked here, in no time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from lorakit.recipe import load_recipe

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def test_the_runs_that_are_bad_on_purpose_are_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    proof = importlib.import_module("proof")
    runs = proof.options_of_runs(tmp_path / "few.jsonl", tmp_path / "mixed.jsonl")
    recipes = {title: load_recipe(ROOT / proof.RECIPE, options) for title, options in runs.items()}
    assert set(recipes) == {"as it is", "over-trained", "shuffled answers"}
    for recipe in recipes.values():
        assert isinstance(recipe.evaluate.primary, dict)
        assert recipe.evaluate.primary["in_domain"] == "content"
        assert recipe.evaluate.primary["retention"] == "loss"


def test_no_row_keeps_its_answer_when_answers_are_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    proof = importlib.import_module("proof")
    rows = [
        {"order": ["a", "b"][n % 2], "messages": [{"content": f"q{n}"}, {"content": f"a{n}"}]}
        for n in range(20)
    ]
    shuffled = proof.with_answers_shuffled(rows)
    for row in shuffled:
        question, answer = (message["content"] for message in row["messages"])
        assert question[1:] != answer[1:]
        assert int(question[1:]) % 2 == int(answer[1:]) % 2  # of the same order of sections
    answers = sorted(row["messages"][-1]["content"] for row in shuffled)
    assert answers == sorted(row["messages"][-1]["content"] for row in rows)


def test_a_section_names_the_command_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    page = importlib.import_module("page")
    monkeypatch.setattr("sys.argv", ["/elsewhere/benchmarks/merges.py", "--steps", "3", "a b"])
    assert page.command() == "python benchmarks/merges.py --steps 3 'a b'"
    for path in sorted(BENCHMARKS.glob("*.py")):
        # A command spelled out would leave out the options that were given.
        assert "Written by `python" not in path.read_text("utf-8"), path.name
