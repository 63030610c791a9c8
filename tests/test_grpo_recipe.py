"""`train.method: grpo` from a recipe to a run folder: warm start, resume, what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import lorakit
from lorakit.cli import main
from lorakit.errors import CheckpointError, InputError, InterruptionError, RunError
from lorakit.report.files import read_run
from lorakit.train import run as run_module
from tests.train.grpo_runs import logged

OWN = """
def short(completions, level, limit, **columns):
    return [float(len(text) <= limit) + 0.01 * n for text, n in zip(completions, level)]

def broken(completions, level, **columns):
    if 3 in level:
        raise ValueError("three")
    return [float(len(text) % 3) for text in completions]
"""
STEPS = 4  # two cycles of two


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {n} plus {n + 1}?", "answer": f"{2 * n + 1}", "level": n}
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and reward functions."""
    place = tmp_path_factory.mktemp("grpo")
    for name, made in {
        "train": rows(0, 12),
        "traces": [r | {"answer": f"I add them: {r['answer']}"} for r in rows(0, 8) + rows(50, 2)],
        "test": rows(50, 24),
    }.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    (place / "own.py").write_text(OWN)
    return place


def recipe(folder: Path, name: str, **sections: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {
        "base": {"model": "builtin", "dtype": "float32"},
        "adapter": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        "data": {"train": str(folder / "train.jsonl"), "max_length": 128},
        "train": {
            "method": "grpo",
            "max_steps": STEPS,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "save_steps": 1,
            "save_total_limit": 99,
        },
        "grpo": {
            "rewards": ["math", {"name": f"{folder}/own.py:short", "options": {"limit": 12}}],
            "num_generations": 2,
            "num_iterations": 2,
            "max_completion_length": 6,
            "beta": 0.01,
        },
        "warm_start": {
            "train": str(folder / "traces.jsonl"),
            "max_steps": 2,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "save_steps": 1,
        },
        "evaluate": {
            "in_domain": str(folder / "test.jsonl"),
            "metrics": ["loss", "math"],
            "primary": "math",
            "max_new_tokens": 4,
            "sampling": {"num_samples": 3, "pass_at": [1, 3], "majority_at": [3]},
        },
        "output": {"dir": str(folder / name)},
    }
    for section, given in sections.items():
        values[section] = values[section] | given
    return values


def train(values: dict[str, Any], *, resume: bool = False) -> Any:
    return lorakit.finetune(lorakit.parse_recipe(values), resume=resume)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Both stages in one go."""
    outcome = train(recipe(folder, "whole"))
    assert outcome.training.steps == STEPS and outcome.warm_start.steps == 2
    told = outcome.to_json()
    assert told["warm_start"]["steps"] == 2 and told["training"]["reward"] is not None
    return folder / "whole"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(run: Path, other: Path) -> None:
    """Adapters, metrics and samples of both stages are the same bits."""
    for stage in (".", "warm_start"):
        ours, theirs = (
            load_file(p / stage / "adapter" / "adapter_model.safetensors") for p in (run, other)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        ours, theirs = (logged(lines_of(p / stage / "metrics.jsonl")) for p in (run, other))
        assert ours == theirs
    assert lines_of(run / "completions.jsonl") == lines_of(other / "completions.jsonl")


def test_the_run_folder_has_both_stages(whole: Path) -> None:
    ours, before = (load_file(p / "adapter/adapter_model.safetensors")
                    for p in (whole, whole / "warm_start"))  # fmt: skip
    assert any(not torch.equal(ours[name], before[name]) for name in ours)
    lines = lines_of(whole / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"rewards/math/mean", "rewards/short/mean", "reward", "kl"} <= lines[0].keys()
    assert "reward" not in lines_of(whole / "warm_start/metrics.jsonl")[0]
    samples = lines_of(whole / "completions.jsonl")
    assert {sample["step"] for sample in samples} <= {1, 3} and samples
    for sample in samples:
        assert sample["rewards"].keys() == {"math", "short"}
        assert sample["reward"] == pytest.approx(sum(sample["rewards"].values()))
    written = lorakit.load_recipe(whole / "recipe.yaml")
    assert written.train.method == "grpo" and written.warm_start is not None
    assert lorakit.load_recipe(whole / "warm_start/recipe.yaml").train.method == "sft"
    assert "reward" in read_run(whole).folder.report.read_text()


def test_sampled_answers_are_measured_and_the_same_again(whole: Path, tmp_path: Path) -> None:
    """Whatever runs together: five at a time here, all at once in the run."""
    names = ("math/pass@1", "math/pass@3", "math/majority@3")
    told = json.loads((whole / "evaluation.json").read_text())["in_domain"]
    # What a policy is asked it learns nothing of by heart, and it never writes right answers.
    assert not {"overfitting", "memorisation", "calibration"} & told.keys()
    found = told["metrics"]
    assert set(found) == {"loss", "math", *names}
    for name in names:
        assert found[name]["examples"] == 24 and len(found[name]["tuned_interval"]) == 2
    answers = lines_of(whole / "answers.jsonl")
    texts = [one["text"] for line in answers for one in line["samples"]["tuned"]]
    assert len(texts) == 24 * 3 and len(set(texts)) > 24
    page = (whole / "report.html").read_text()
    assert "mathematics pass@3" in page and "of each alone" in page
    assert 'id="calibration"' not in page
    assert '<th scope="row">Warm start</th>' in page and "What is trained by the warm start" in page
    again = tmp_path / "run"
    shutil.copytree(whole, again, ignore=shutil.ignore_patterns("checkpoints", "warm_start"))
    written = yaml.safe_load((again / "recipe.yaml").read_text())
    written["evaluate"]["max_batch"] = 5
    (again / "recipe.yaml").write_text(yaml.safe_dump(written))
    results = lorakit.evaluate_run(again)
    assert lines_of(again / "answers.jsonl") == answers
    assert results["in_domain"].to_json()["metrics"]["math/pass@1"] == found["math/pass@1"]


@pytest.mark.slow
def test_verbs_take_such_a_run_and_its_warm_start(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, run in enumerate((whole, whole / "warm_start")):
        copied = tmp_path / str(number)
        shutil.copytree(run, copied)
        assert main(["evaluate", str(copied), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        # Two of its rows are among the traces, in other words: the rest are all there.
        assert told["in_domain"]["examples"] == 24
        assert main(["merge", str(copied), "--output", str(tmp_path / f"merged{number}")]) == 0
        capsys.readouterr()


@pytest.mark.slow
def test_five_ways_are_measured_with_such_a_run(
    whole: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both stages are what the tuned model has cost, and no question is among their rows."""
    copied, path = tmp_path / "run", tmp_path / "r.yaml"
    shutil.copytree(whole, copied)
    path.write_text(yaml.safe_dump(recipe(folder, "x", output={"dir": str(copied)})))
    assert main(["compare", str(path), "--set", "compare.timed=2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"base", "few_shot", "tuned"} <= told["ways"].keys() and told["primary"] == "math"
    assert told["examples"] == 24
    seconds = [
        lines_of(p / "metrics.jsonl")[-1]["seconds"] for p in (copied / "warm_start", copied)
    ]
    taken = told["ways"]["tuned"]["setup"]["seconds"]
    assert taken == {"training": pytest.approx(sum(seconds))}
    assert (copied / "compare.html").is_file()


@pytest.mark.slow
def test_such_a_run_is_talked_to_and_its_page_is_made_again(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run in (whole, whole / "warm_start"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("What is 2 plus 3?\nAnd 4 plus 5?\n"))
        options = ["--greedy", "--base", "--max-new-tokens", "4"]
        assert main(["chat", str(run), *options]) == 0
        assert len(capsys.readouterr().out.splitlines()) >= 4
        page = tmp_path / f"{run.name}.html"
        assert main(["report", str(run), "--output", str(page)]) == 0
        capsys.readouterr()
        text = page.read_text()
        assert ("What was rolled out" in text) == (run == whole)


# Inside of a cycle; the rest is slow: every run is planned, checked and reported too.
@pytest.mark.parametrize("step", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_resume_in_the_second_stage(whole: Path, folder: Path, tmp_path: Path, step: int) -> None:
    again = tmp_path / "run"
    shutil.copytree(whole, again, ignore=_from_step(step))
    shutil.copytree(whole / "warm_start", again / "warm_start")
    values = recipe(folder, "x", output={"dir": str(again)})
    del values["evaluate"]  # what is measured is no part of what is trained
    train(values, resume=True)
    assert_same(again, whole)


def _from_step(step: int):
    def ignored(place: str, names: list[str]) -> list[str]:
        later = [n for n in names if n.startswith("step-") and int(n[len("step-") :]) > step]
        return [*later, *(n for n in names if n in ("warm_start", "adapter", "evaluation.json"))]

    return ignored


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 2])
def test_resume_in_the_first_stage(whole: Path, folder: Path, tmp_path: Path, step: int) -> None:
    """After its last step too, when the second has not begun."""
    again = tmp_path / "run"
    (again / "warm_start").mkdir(parents=True)
    for name in ("recipe.yaml", "base.json", "plan.json", "data.json"):
        shutil.copy(whole / name, again / name)
    if step:
        shutil.copytree(
            whole / "warm_start", again / "warm_start", dirs_exist_ok=True, ignore=_from_step(step)
        )
    values = recipe(folder, "x", output={"dir": str(again)})
    del values["evaluate"]  # what is measured is no part of what is trained
    train(values, resume=True)
    assert_same(again, whole)


@pytest.mark.slow
def test_a_signal_in_the_warm_start(
    whole: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe(folder, "x", output={"dir": str(tmp_path / "run")})
    plain = run_module.take_step

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments, **options)

    monkeypatch.setattr(run_module, "take_step", interrupted)
    with pytest.raises(InterruptionError, match=r"after step 1 of 2; saved .*warm_start") as caught:
        train(values)
    run = tmp_path / "run"  # of both stages, not the warm start's own
    (note,) = caught.value.__notes__
    assert f"`lorakit train {run}/recipe.yaml --output {run} --resume` goes on" in note
    monkeypatch.undo()
    assert not (tmp_path / "run/metrics.jsonl").exists()
    train(values, resume=True)
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"warm_start": {"learning_rate": 1e-3}}, "belongs to another run.*learning_rate"),
        ({"grpo": {"beta": 0.02}}, r"belongs to another run.*method\.grpo\.loss\.beta"),
    ],
)
def test_another_run_is_not_gone_on_from(
    whole: Path, folder: Path, tmp_path: Path, sections: dict, said: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    values = recipe(folder, "x", output={"dir": str(tmp_path / "run")}, **sections)
    with pytest.raises(CheckpointError, match=said):
        train(values, resume=True)


@pytest.mark.slow
def test_a_run_without_its_warm_start_is_another_one(
    whole: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    values = recipe(folder, "x", output={"dir": str(tmp_path / "run")})
    del values["warm_start"]
    with pytest.raises(CheckpointError, match=r"belongs to another run.*method\.warm_start"):
        train(values, resume=True)


@pytest.mark.slow
def test_a_failing_reward_stops_the_run_which_goes_on_once_it_is_mended(
    folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    values = recipe(
        folder,
        "x",
        grpo={"rewards": ["math", f"{own}:broken"]},
        train={"save_steps": 99},
        output={"dir": str(tmp_path / "run")},
    )
    values["train"]["max_steps"] = 12  # every question is asked
    del values["warm_start"]
    with pytest.raises(RunError, match=r"mine.py:broken' raised ValueError: three.*jsonl:4 "):
        train(values)
    done = max(
        (int(path.name[5:]) for path in (tmp_path / "run/checkpoints").glob("step-*")), default=0
    )
    own.write_text(OWN.replace("if 3 in level", "if False"))
    assert train(values, resume=True).training.steps == 12
    own.write_text(OWN)
    skipping = values | {"output": {"dir": str(tmp_path / "skipping")}}
    skipping["grpo"] = values["grpo"] | {"on_reward_failure": "skip"}
    assert train(skipping).training.steps == 12
    assert done % 2 == 0  # as it was before those completions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"grpo": {"rewards": ["own.py:f"]}}, "'own.py' cannot be read as Python"),
        ({"grpo": {"rewards": ["json_schema"]}}, "options.json_schema is missing"),
        ({"grpo": {"max_completion_length": 2000}}, "more than the base's context of 1024"),
        ({"grpo": {"rewards": [{"name": "{folder}/own.py:short"}]}}, "short' wants 'limit'"),
        ({"data": {"columns": {"answer": "question", "question": "answer"}}}, None),
    ],
)
def test_nothing_is_written_of_what_cannot_work(
    folder: Path, tmp_path: Path, sections: dict, said: str | None
) -> None:
    place = tmp_path / "run"
    text = json.dumps(sections).replace("{folder}", str(folder))
    values = recipe(folder, "x", output={"dir": str(place)}, **json.loads(text))
    if said is None:
        del values["warm_start"]
        train(values)  # answers may be questions: a scorer decides
        return
    with pytest.raises(InputError, match=said):
        train(values)
    assert not place.exists()


@pytest.mark.slow
def test_plan_and_check_tell_of_both_stages(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe(folder, "planned")))
    assert main(["plan", str(path), "--json", "--no-calibrate"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["warm_start"]["steps"]) == (STEPS, 2)
    assert plan["seconds"] is None and "not known" in plan["seconds_found"]
    assert plan["seconds_at_most"] is None and plan["flops"]["rollouts"] > 0
    assert main(["plan", str(path), "--json", "--gpu", "h100"]) == 0
    timed = json.loads(capsys.readouterr().out)
    parts = timed["seconds_by_part"]
    assert timed["seconds"] is None and {"rollouts_at_most", "policy_at_most"} <= parts.keys()
    assert timed["seconds_at_most"] == pytest.approx(sum(parts.values()), abs=0.01)
    assert "warm_start" in parts and timed["cost_found"]["basis"].startswith("at most, ")
    phases = plan["memory_phases"]
    assert {"rollout", "training_step", "warm_start_step"} <= phases.keys()
    assert plan["memory_bytes"]["peak"] == max(phases.values())
    rollouts = plan["rollouts"]
    # Two cycles of four completions of six tokens.
    assert rollouts["completions"] == 8 and rollouts["generated_tokens_at_most"] == 48
    assert rollouts["kv_cache"] > 0 and rollouts["at_a_time"] == 4
    assert plan["trained_tokens"] == STEPS * 4 * 6
    # 24 questions, three sampled answers of each, base and tuned.
    assert (plan["answers"]["greedy"], plan["answers"]["sampled"]) == (48, 144)
    assert plan["answers"]["generated_tokens_at_most"] == (48 + 144) * 4
    assert main(["check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    told = [one for one in found if one["message"].startswith("warm_start: ")]
    assert any(one["where"] == "warm_start.max_steps" for one in told)
    assert [one["where"] for one in told if one["id"] == "few-rows"] == ["warm_start.train"]
    assert any(one["id"] == "few-questions-per-step" for one in found)
    page = path.with_name("check.html")
    assert main(["check", str(path), "--show", "2", "--html", str(page)]) == 0
    shown, html = capsys.readouterr().out, page.read_text()
    assert '<th scope="row">Warm start</th>' in html and "What is trained by the warm start" in html
    assert "I add them: " in re.sub("<.*?>", "", html)
    assert "warm_start.train: 10 rows read, 10 kept, 0 dropped;" in shown.replace("\n", " ")
    for name, answer in (("train", "3"), ("warm_start.train", "I add them: 3")):
        example = shown.split(f"example 2 of {name};")[1].split("\n\n")[0]
        assert f"\u27e6{answer}<|end|>\u27e7" in example, example


@pytest.mark.slow
def test_what_was_told_of_a_step_names_what_matters(
    whole: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lorakit.train.reporter.bars_are_shown", lambda: True)
    monkeypatch.setattr("lorakit.train.grpo_state.bars_are_shown", lambda: True)
    folder = whole.parent
    values = recipe(folder, "x", output={"dir": str(tmp_path / "run")})
    del values["warm_start"]
    with caplog.at_level("INFO"):
        train(values)
    told = [record.getMessage() for record in caplog.records]
    steps = [line for line in told if line.startswith("step ")]
    assert len(steps) == STEPS  # beside a bar too
    assert all(part in steps[0] for part in ("reward ", "in groups that vary in nothing", "KL "))
    assert sum("asked: What is" in line and "(math " in line for line in told) == STEPS


@pytest.mark.slow
def test_rows_of_the_traces_are_not_measured(folder: Path, tmp_path: Path) -> None:
    """A row that the warm start trains on is left out of what is measured."""
    made = (folder / "test.jsonl").read_text().splitlines()
    (tmp_path / "traces.jsonl").write_text("\n".join(made[:3]) + "\n")
    values = recipe(folder, "x", output={"dir": str(tmp_path / "run")})
    values["warm_start"]["train"] = str(tmp_path / "traces.jsonl")
    found = lorakit.check(lorakit.parse_recipe(values))
    assert found.sets["in_domain"].kept == 24 - 3
