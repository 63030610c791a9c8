"""Reading a run folder: what is there, what is damaged, what is no run."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from lorakit.errors import InputError, RunError
from lorakit.report.files import read_run
from lorakit.report.order import in_order
from lorakit.run_folder import finished_run
from tests.report import runs


def test_everything_is_read(made: Path) -> None:
    run = read_run(made / "first")
    assert run.missing == ()
    assert run.recipe is not None and run.recipe.adapter.r == 16
    assert run.versions[0].startswith("lorakit ")
    assert len(run.metrics) == 160 and len(run.answers) == 63
    assert run.data is not None and next(iter(run.data.sets)) == "train"


def test_sets_and_metrics_are_told_in_their_own_order(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "first", run)
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation, sort_keys=True))
    read = read_run(run).evaluation
    assert list(read) == ["in_domain", "in_domain+typos", "out_of_domain", "retention"]
    metrics = [*runs.SCORERS, "loss", "perplexity"]
    told = ["loss", "perplexity", "kl", *sorted(runs.SCORERS)]
    assert list(read["retention"].metrics) == told
    assert in_order([*metrics, "loss"]) == ["loss", "perplexity", *runs.SCORERS]


@pytest.mark.parametrize("name", ["no such folder", "empty", "file"])
def test_what_is_no_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no run folder"):
        read_run(tmp_path / name)


def with_lengths(lengths: dict[str, list[int]]) -> str:
    facts = dict.fromkeys(("read", "kept", "tokens", "trained_tokens", "longest"), 1)
    train = facts | {"dropped": 0, "max_length": None, "lengths": lengths}
    return json.dumps({"sets": {"train": train}, "findings": [], "examples": []})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("plan.json", "{", "Expecting"),
        ("plan.json", b"\xff\xfe\xfa", "utf-8"),
        ("evaluation.json", '{"in_domain": {"examples": "many"}}', "in_domain.examples"),
        ("evaluation.json", "[]", "dict"),
        ("evaluation.json", "[" * 100_000, "recursion"),
        ("data.json", '{"sets": {}, "findings": []}', "examples"),
        ("data.json", with_lengths({"edges": [], "counts": []}), "counts"),
        ("data.json", with_lengths({"edges": [0, 9], "counts": [1, 2]}), "edges should rise"),
        ("data.json", with_lengths({"edges": [9, 0], "counts": [1]}), "edges should rise"),
        ("answers.jsonl", '{"set": "in_domain"}\n', "0.index"),
        ("answers.jsonl", "not json\n", "Expecting"),
        ("metrics.jsonl", '{"step": 1, "loss": NaN}\n', "0."),
        ("choices.json", "null", "ChoiceFacts"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, content: str | bytes, reason: str, made: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "first", run)
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=name) as refused:
        read_run(run)
    assert reason in str(refused.value)


def test_answers_may_hold_line_separators(tmp_path: Path, made: Path) -> None:
    (answer, *_) = runs.answer_lines(random.Random(0))
    answer |= {"prompt": "one\u2028two\u0085three", "base": "", "tuned": "", "reference": ""}
    text = json.dumps(answer, ensure_ascii=False) + "\n"
    (tmp_path / "answers.jsonl").write_text(text, encoding="utf-8")
    assert read_run(tmp_path).answers[0].prompt == answer["prompt"]


def test_a_recipe_is_no_run_and_says_where_its_run_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base: {model: builtin}\n", "utf-8")
    with pytest.raises(InputError, match=r"is a file and no run folder.* output\.dir"):
        finished_run(tmp_path / "recipe.yaml")
