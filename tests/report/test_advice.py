"""What to do next: each rule speaks where its numbers are, and is silent where they are not."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorakit.data.contract import Finding
from lorakit.report.advice import advice
from lorakit.report.files import read_run
from lorakit.report.page import run_page
from lorakit.train.watch import Watcher, watchers
from tests.report import runs
from tests.report.pages import parse
from tests.report.test_verdicts import BETTER, KEPT, LOST, SAME, WORSE


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "first", tmp_path / "run")
    return tmp_path / "run"


def told(run: Path) -> str:
    return " ".join(f"{one.saw} {one.do}" for one in advice(read_run(run)))


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({"in_domain": SAME}, "more rows or for more epochs (now 4)"),
        ({"in_domain": WORSE}, "Lower train.learning_rate (now 0.0002), and look at what is"),
        ({"in_domain": BETTER, "out_of_domain": SAME}, "Add rows on more topics"),
        ({"in_domain": BETTER}, "What the adapter forgot was not measured"),
        ({"in_domain": BETTER, "retention": LOST}, "mix general rows into data.train"),
        ({"in_domain": BETTER | {"examples": 7}}, "Under 20 examples were measured: in-domain."),
        ({"in_domain": BETTER, "retention": KEPT}, "then merge it for serving"),
    ],
)
def test_the_verdict_decides(sets: dict[str, Any], words: str, run: Path) -> None:
    runs.write(run / "evaluation.json", sets)
    assert words in told(run)
    runs.write(run / "evaluation.json", {"in_domain": BETTER, "out_of_domain": BETTER})
    others = told(run)
    assert words not in others or words.startswith("What the adapter forgot")


def test_without_an_evaluation_nothing_is_known(run: Path) -> None:
    (run / "evaluation.json").unlink()
    assert "whether the adapter is any better is not known" in told(run)
    assert "merge it for serving" not in told(run)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.0, 1.5, 1.505], ""),
        ([2.0, 1.5, 1.4], "still falling at the end (1.500 to 1.400)"),
        ([2.0, 1.5, 1.495], ""),
        ([2.0], ""),
    ],
)
def test_validation_decides_about_epochs(losses: list[float], words: str, run: Path) -> None:
    lines = [
        runs.metrics_lines(random.Random(0), steps=1)[0] | {"step": step, "validation_loss": loss}
        for step, loss in enumerate(losses, 1)
    ]
    runs.write_lines(run / "metrics.jsonl", lines)
    assert words in told(run)
    assert ("Validation loss" in told(run)) == bool(words)


def _no_findings(data: dict[str, Any]) -> None:
    data["findings"] = []


def _nothing_dropped(data: dict[str, Any]) -> None:
    data["sets"]["train"]["dropped"] = 0


def _little_trained(data: dict[str, Any]) -> None:
    data["sets"]["train"]["trained_tokens"] = 2000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: None, "Raise data.max_length (now 512)"),
        (_no_findings, "23 of 640 training rows were left out. See the findings"),
        (_little_trained, "Only 1.8 % of the training tokens are trained."),
    ],
)
def test_the_data_decide(change: Callable[[dict[str, Any]], None], words: str, run: Path) -> None:
    runs.edit(run / "data.json", change)
    assert words in told(run)
    runs.edit(run / "data.json", _nothing_dropped)
    assert "were left out" not in told(run)


@pytest.mark.parametrize("watcher", watchers(), ids=lambda one: str(one.ID))
def test_what_was_seen_is_told_with_what_to_do(watcher: Watcher, run: Path) -> None:
    lines = runs.metrics_lines(random.Random(0), steps=4)
    runs.write_lines(run / "metrics.jsonl", lines)
    quiet, before = run_page(read_run(run)), told(run)
    assert "Seen while training" not in quiet and watcher.TITLE not in before
    found = Finding(watcher.ID, watcher.SEVERITIES[0], f"{runs.HOSTILE} went on", "step 3")
    lines[2] |= {"findings": [found.to_json()]}
    runs.write_lines(run / "metrics.jsonl", lines)
    assert f"{watcher.TITLE} (step 3). {watcher.MEND}" in told(run)
    training = parse(run_page(read_run(run))).by_id("training")
    shown = " ".join(training.text.split())
    for said in ("Seen while training", watcher.ID, watcher.REASON, watcher.SOURCE, "step 3"):
        assert said in shown
    assert runs.HOSTILE in training.text and not training.all("script")
    # One that a newer version has seen is shown, and no reason for it is made up.
    lines[2]["findings"][0]["id"] = "not-known-here"
    runs.write_lines(run / "metrics.jsonl", lines)
    assert watcher.TITLE not in told(run) and "not-known-here" in run_page(read_run(run))


def test_what_is_silenced_is_counted_on_the_page(run: Path) -> None:
    lines = runs.metrics_lines(random.Random(0), steps=4)
    lines[2] |= {"silenced": {"loss-rises": 1}}
    runs.write_lines(run / "metrics.jsonl", lines)
    shown = parse(run_page(read_run(run))).by_id("training").text
    assert "Silenced by the recipe" in shown and "loss-rises" in shown
    assert "loss-rises" not in told(run)
