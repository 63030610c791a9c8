"""`lorakit compare`: the five ways on a tiny model, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import lorakit
from lorakit.adapters.attached import adapter_disabled
from lorakit.cli import main
from lorakit.compare.few_shot import FewShot, Turns, near_duplicates
from lorakit.compare.ways import compare_ways
from lorakit.data.prompt import PromptRenderer
from lorakit.errors import InputError
from lorakit.generate import SamplingSettings, generate
from lorakit.ship.serving import load_run
from tests.compare.conftest import NUM_QUESTIONS, STYLE, Trained
from tests.report.pages import parse

ALL = ["base", "few_shot", "retrieval", "tuned", "tuned_retrieval"]


@pytest.fixture(scope="module")
def told(trained: Trained) -> dict[str, Any]:
    """compare.json of the tiny run."""
    compare_ways(trained.recipe(), trained.run)
    return json.loads((trained.run / "compare.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def answers(told: dict[str, Any], trained: Trained) -> list[dict[str, Any]]:
    lines = (trained.run / "compare_answers.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_tuning_wins_where_only_the_style_matters(told: dict[str, Any]) -> None:
    """Every answer is the same sentence, which no document has."""
    assert list(told["ways"]) == sorted(ALL) and told["not_measured"] == {}
    assert (told["examples"], told["available"]) == (NUM_QUESTIONS, NUM_QUESTIONS)
    assert told["primary"] == "loss" and not told["higher_is_better"]["loss"]
    found = told["recommendation"]
    # Whether documents beside the question disturb a random model is chance; tuning is what counts.
    assert found["way"] in ("tuned", "tuned_retrieval")
    assert not set(found["good_enough"]) & {"base", "few_shot", "retrieval"}
    ways = told["ways"]
    against = ways["tuned"]["metrics"]["loss"]["against_base"]
    assert against["interval"][0] <= against["difference"] <= against["interval"][1] < 0
    assert ways["base"]["metrics"]["loss"]["against_base"] is None


def test_numbers_are_what_they_say(
    told: dict[str, Any], answers: list[dict[str, Any]], trained: Trained
) -> None:
    for name, way in told["ways"].items():
        tokens = way["tokens"]
        for part in ("prompt", "answer"):
            each = [line["ways"][name][f"{part}_tokens"] for line in answers]
            assert tokens[part] == pytest.approx(np.mean(each))
        assert tokens["total"] == pytest.approx(tokens["prompt"] + tokens["answer"])
        scores = [line["ways"][name]["scores"]["token_f1"] for line in answers]
        assert way["metrics"]["token_f1"]["mean"] == pytest.approx(np.mean(scores))
        latency = way["latency_seconds"]
        assert latency["calls"] == 2
        assert 0 < latency["first_token"] <= latency["median"] <= latency["p95"]
        seconds = way["setup"]["seconds"]
        assert ("training" in seconds) == name.startswith("tuned")
        assert ("indexing documents" in seconds) == name.endswith("retrieval")
        assert ("indexing examples" in seconds) == (name == "few_shot")
    assert told["cost_basis"]["unit"] == "USD" and "an hour" in told["cost_basis"]["setup"]
    # A second costs the same, whether it trains or answers.
    metrics = (trained.run / "metrics.jsonl").read_text("utf-8").splitlines()
    seconds = told["ways"]["tuned"]["setup"]["seconds"]
    assert seconds == {"training": json.loads(metrics[-1])["seconds"]}
    of_training = told["ways"]["tuned"]["setup"]["cost"] / seconds["training"]
    base = told["ways"]["base"]
    of_calls = base["cost_per_1000_calls"] / 1000 * base["calls_per_second"]
    assert of_calls == pytest.approx(of_training) and of_training > 0


def test_answers_are_those_of_the_prompts_that_are_described(
    trained: Trained, answers: list[dict[str, Any]]
) -> None:
    """Written by hand for one question: what was found before it, the base or the tuned model."""
    served = load_run(trained.run)
    renderer = PromptRenderer(served.tokenizer)
    greedy = SamplingSettings(max_new_tokens=6, temperature=0.0)
    line = next(one for one in answers if "cough" in one["question"])
    question = line["question"]
    source = str(trained.documents / "0.txt")
    text = f"[1] On cough.\n\nA cough heals by itself.|{question}"

    def answer(content: str, is_tuned: bool) -> tuple[str, int]:
        ids = renderer.ids([{"role": "user", "content": content}])
        if is_tuned:
            (made,) = generate(served.model, served.tokenizer, [ids], greedy)
        else:
            with adapter_disabled(served.model):
                (made,) = generate(served.model, served.tokenizer, [ids], greedy)
        return made.text, len(ids)

    for name, content in (
        ("base", question),
        ("retrieval", text),
        ("tuned", question),
        ("tuned_retrieval", text),
    ):
        way = line["ways"][name]
        assert (way["answer"], way["prompt_tokens"]) == answer(content, name.startswith("tuned"))
        cited = [one["source"] for one in way["sources"]]
        assert cited == ([f"{source}:1"] if name.endswith("retrieval") else [])
    assert line["ways"]["few_shot"]["examples"] == 2


def test_what_no_document_speaks_of_is_asked_without_one_and_said(
    told: dict[str, Any], answers: list[dict[str, Any]]
) -> None:
    burns = [one for one in answers if "burn" in one["question"]]
    assert burns and all(one["ways"]["retrieval"]["sources"] == [] for one in burns)
    assert (
        f"retrieval: {len(burns)} of {NUM_QUESTIONS} prompts have no document in them"
        in (told["notes"])
    )


def test_no_prompt_leaves_less_room_than_an_answer_needs(
    trained: Trained, answers: list[dict[str, Any]]
) -> None:
    """The tiny model's context is 256 tokens: hardly any example fits a prompt as long as these."""
    found = compare_ways(trained.recipe(few_shot=40, max_examples=3), trained.run)
    (row,) = [row for row in found.table.rows if row.way.name == "few_shot"]
    lengths = [len(prompt.ids) for prompt in row.measured.prompts.prompts]
    counts = [prompt.examples for prompt in row.measured.prompts.prompts]
    assert max(lengths) <= 256 - 6 and 2 < max(counts) < 40


def test_a_held_out_question_is_never_its_own_example(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reworded a little, rows of the training set are held out: the split does not see it."""
    held_out = [{"prompt": f"AID rash, {n}", "completion": STYLE} for n in (102, 108, 114)]
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in held_out))
    asked: list[tuple[str, list[str]]] = []
    like = FewShot.like

    def spied(self: FewShot, question: str, k: int) -> list[Turns]:
        found = like(self, question, k)
        asked.append((question, [str(turns[-2]["content"]) for turns in found]))
        return found

    monkeypatch.setattr(FewShot, "like", spied)
    recipe = trained.recipe()
    recipe.evaluate.in_domain = str(path)
    compare_ways(recipe, trained.run)
    assert [question for question, _ in asked] == [row["prompt"] for row in held_out]
    for question, examples in asked:
        assert examples and not any(near_duplicates(question, one) for one in examples)


@pytest.mark.usefixtures("told")
def test_the_verb_prints_a_table_or_one_json_object(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    without = {k: v for k, v in trained.values.items() if k != "compare"}
    path.write_text(yaml.safe_dump(without | {"compare": {"timed": 2, "max_examples": 4}}))
    assert main(["compare", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown["not_measured"]) == ["retrieval", "tuned_retrieval"]
    assert "--documents" in shown["not_measured"]["retrieval"]
    assert shown["recommendation"]["verdict"] == "too few examples to tell"
    assert shown["documents"] is None
    options = ["--documents", str(trained.documents), "--run", str(trained.run)]
    options += ["--html", str(tmp_path / "page.html")]
    assert main(["compare", str(path), *options]) == 0
    shown = capsys.readouterr().out
    for title in ("plain prompt", "few-shot", "retrieval", "tuned + retrieval", "compare.json"):
        assert title in shown
    assert "verdict: too few examples to tell" in shown
    assert "4 questions are too few: a verdict needs 20" in shown
    page = (tmp_path / "page.html").read_text("utf-8")
    assert (trained.run / "compare.html").read_text("utf-8") == page
    tree = parse(page)
    assert "Too few examples to tell" in tree.all("h1")[0].text
    passages = [one.text for one in tree.by_id("answers").with_class("sources")]
    assert passages and all("heals by itself" in one for one in passages)


def test_a_recipe_without_a_run_is_trained_first_and_says_so(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = trained.values | {"output": {"dir": str(tmp_path / "new")}}
    values["train"] = values["train"] | {"max_steps": 1, "warmup_steps": 0}
    values["compare"] = {"timed": 2, "max_examples": 2}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["compare", str(path), "--json"]) == 0
    shown = capsys.readouterr()
    assert "no run in" in shown.err and "training it first" in shown.err
    assert (tmp_path / "new" / "compare.json").is_file()
    assert json.loads(shown.out)["ways"].keys() == {"base", "few_shot", "tuned"}
    (tmp_path / "new" / "adapter" / "adapter_config.json").unlink()
    assert main(["compare", str(path)]) == 1
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "nowhere"], "no run folder"),
        (["--documents", "nowhere"], "no such file or folder"),
        (["--prices", "nowhere.yaml"], "no such file"),
        (["--set", "compare.api=gtp-4.1"], "Did you mean gpt-4.1"),
        (["--set", "compare.prompt='{question}'"], "documents"),
        (["--set", "compare.overlap_characters=30"], "over half of compare.chunk_characters"),
        (["--set", "data.max_length=100"], "is of another recipe: it has data.max_length 200"),
        (["--set", "compare.top_k=0"], "top_k"),
    ],
)
def test_what_cannot_work_is_said_and_nothing_is_written(
    options: list[str], message: str, trained: Trained, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(trained.values))
    before = {file: file.stat().st_mtime_ns for file in trained.run.iterdir()}
    assert main(["compare", str(path), *options]) == 2
    assert message in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in trained.run.iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--documents", "nowhere"], "no such file or folder"),
        (["--prices", "nowhere.yaml"], "no such file"),
        (["--set", "compare.api=gtp-4.1"], "Did you mean gpt-4.1"),
        (["--set", "evaluate.metrics=[loss, token_f1, choice_text]",
          "--set", "evaluate.primary=choice_text"], "which five ways are not compared by"),
        ([], "nothing to compare on"),
    ],
)  # fmt: skip
def test_nothing_is_trained_that_cannot_be_compared_afterwards(
    options: list[str], message: str, trained: Trained, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    values = trained.values | {"output": {"dir": "new"}}
    if not options:
        del values["evaluate"]
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["compare", "recipe.yaml", *options]) == 2
    told = capsys.readouterr().err
    assert message in told and "training it first" not in told
    assert not Path("new").exists()


def test_no_held_out_questions(trained: Trained) -> None:
    recipe = trained.recipe()
    values = recipe.model_dump(exclude_unset=True)
    del values["evaluate"]
    with pytest.raises(InputError, match="nothing to compare on"):
        compare_ways(lorakit.parse_recipe(values), trained.run)


def test_options_without_documents_have_no_effect(trained: Trained) -> None:
    values = {**trained.values, "compare": {"top_k": 2}}
    with pytest.raises(InputError, match=r"compare\.top_k cannot take effect"):
        lorakit.parse_recipe(values)
