"""The judge and lm-eval may fail after hours of work: all that was measured without them stays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lorakit
from lorakit.errors import RunError
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.outside import with_outside
from lorakit.evaluate.result import SetResult
from tests.evaluate.test_before_after import Pretender, loaded, prepared, rows
from tests.evaluate.test_before_after import compare as compare_sets
from tests.evaluate.test_win_rate import Reply, Server, judge_at

__all__ = ["loaded"]  # a fixture

READY = "Reply with the word ready."


class Judge:
    """Says ready, and refuses all else while it is `ill`; likes all answers alike."""

    ill = True

    def __call__(self, text: str, _: int) -> str | Reply:
        if text == READY:
            return "ready"
        return (401, {}, "no more of your money") if self.ill else "Both are alike.\n[[C]]"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TEST_JUDGE_KEY", "sk-1")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    server = Server(Judge())
    yield server
    server.close()


def test_a_run_keeps_all_that_the_judge_has_no_say_in(
    server: Server, tiny_folder: Path, tmp_path: Path
) -> None:
    given, _ = rows(18)
    for name, part in (("train", given[:12]), ("asked", given[12:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    run = tmp_path / "run"
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(tiny_folder), "dtype": "float32"},
            "adapter": {"r": 4},
            "data": {"train": str(tmp_path / "train.jsonl")},
            "train": {"max_steps": 2, "learning_rate": 0.05},
            "evaluate": {
                "in_domain": str(tmp_path / "asked.jsonl"),
                "metrics": ["loss", "token_f1", "win_rate"],
                "primary": "win_rate",
                "max_new_tokens": 8,
                "judge": {"url": server.url, "model": "wise-1", "api_key_env": "TEST_JUDGE_KEY"},
            },
            "output": {"dir": str(run)},
        }
    )
    with pytest.raises(RunError, match=r"refuses with HTTP 401.*To go on: `lorakit evaluate"):
        lorakit.finetune(recipe)
    found = json.loads((run / "evaluation.json").read_text())["in_domain"]
    assert set(found["metrics"]) == {"loss", "token_f1"} and found["primary"] == "loss"
    assert any(note.startswith("win_rate is not measured yet") for note in found["notes"])
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 6 and set(answers[0]["scores"]) == {"token_f1"}
    assert "win_rate is not measured yet" in (run / "report.html").read_text()
    assert "seconds" in json.loads((run / "plan.json").read_text())["measured"]

    server.judge = Judge()
    server.judge.ill = False
    again = lorakit.evaluate_run(run)["in_domain"].to_json()
    assert again["primary"] == "win_rate"
    kept = json.loads((run / "evaluation.json").read_text())["in_domain"]
    assert kept == json.loads(json.dumps(again)) and set(kept["metrics"]) > {"win_rate"}
    assert not any("not measured yet" in note for note in kept["notes"])
    assert kept["forgotten"] == found["forgotten"]
    line = json.loads((run / "answers.jsonl").read_text().splitlines()[0])
    assert set(line["scores"]) == {"token_f1", "win_rate"}


def test_one_failure_keeps_nobody_else_from_its_say(
    server: Server, loaded: Any, tmp_path: Path
) -> None:
    given, references = rows(30)
    sets = {"in_domain": prepared(given[:24]), "out_of_domain": prepared(given[24:])}
    measures = Measures(
        ("loss", "token_f1", "win_rate"), judge=judge_at(server.url, tmp_path / "judge")
    )
    results = compare_sets(loaded, sets, measures, Pretender(loaded[0], references))
    written: list[Mapping[str, SetResult]] = []

    def fails() -> Iterator[Mapping[str, SetResult]]:
        raise RunError("lm-eval could not run own_task.")
        yield

    found, failure = with_outside(
        results, sets, measures, fails(), written.append, run=tmp_path / "run"
    )
    assert failure is not None and failure.exit_code == 1
    assert "HTTP 401" in str(failure) and "own_task" in str(failure)
    assert found == results

    # A task that fails keeps neither the one before nor the one after it from being written.
    task = replace(results["in_domain"], answered=())
    asked_for = [{"lm_eval/a": task}, RunError("lm-eval could not run b."), {"lm_eval/c": task}]
    written.clear()
    found, failure = with_outside(
        results, sets, measures, iter(asked_for), written.append, run=tmp_path / "run"
    )
    assert failure is not None and "could not run b." in str(failure) and failure.exit_code == 1
    assert set(found) == {*sets, "lm_eval/a", "lm_eval/c"} == set(written[-1])
    assert set(written[-2]) == {*sets, "lm_eval/a"}

    # The judge goes in the midst: what it said of the first set stays.
    calm, asked = Judge(), len(server.bodies)
    calm.ill = False
    server.judge = lambda text, n: (404, {}, "") if n > asked + 2 * 24 else calm(text, n)
    found, failure = with_outside(
        results, sets, measures, iter(()), written.append, run=tmp_path / "run"
    )
    assert failure is not None and "HTTP 404" in str(failure)
    assert found["in_domain"].metrics["win_rate"].examples == 24
    assert found["out_of_domain"] == results["out_of_domain"]
    assert written[-1] == found
