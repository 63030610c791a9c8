"""Cases built so that one way must win, on the built-in base: minutes, so not by default."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facts", "both", "style"])
def test_the_way_that_must_win_is_recommended(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    five_ways = importlib.import_module("five_ways")
    make, expected = five_ways.CASES[name]
    told = five_ways.compared(make(tmp_path, 40), tmp_path)
    assert told["recommendation"]["way"] == expected, told["recommendation"]


def test_no_training_row_of_a_case_has_an_answer_that_documents_alone_should_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else tuning could win what retrieval must; nothing is trained here."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    five_ways = importlib.import_module("five_ways")
    five_ways.both(tmp_path, 60)
    rows = {
        file: [json.loads(line) for line in (tmp_path / f"{file}.jsonl").read_text().splitlines()]
        for file in ("train", "held_out")
    }
    trained = {row["prompt"] for row in rows["train"]}
    documents = [path.read_text() for path in (tmp_path / "documents").iterdir()]
    assert len(rows["held_out"]) == 60 and len(trained) > 100
    for row in rows["held_out"]:
        assert row["prompt"] not in trained
        name = row["prompt"].rstrip("?").removeprefix("What is the weight of ")
        name = name.removeprefix("Where does ").removeprefix("What does ")
        first, last = name.split()[:2]
        (told,) = [text for text in documents if f"{first} {last} " in text]
        assert row["completion"] in told
