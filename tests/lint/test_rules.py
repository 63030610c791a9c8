"""Rules as files, as ids in a recipe, and as pages; what is silenced is counted."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lorakit
from lorakit.cli import main
from lorakit.data.contract import FINDINGS, Finding
from lorakit.data.pack import epoch_order
from lorakit.data.silence import silenced_in_words, without_silenced
from lorakit.errors import RecipeError
from lorakit.lint import rules
from lorakit.lint.contract_pages import PAGES
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import hardware_of
from lorakit.lint.kinds import kinds
from lorakit.lint.languages import languages_of
from lorakit.lint.lint import lint
from lorakit.lint.pages import page_of, pages
from lorakit.lint.row_texts import RowText, Sample
from lorakit.recipe import BaseSection, GRPOSection
from lorakit.recipe.finding_names import CONTRACT_FINDINGS, finding_names
from lorakit.train.watch import watchers
from tests.lint.corpus.case import Case
from tests.lint.corpus.flawed import FLAWED
from tests.lint.corpus.rows import answered
from tests.plan.test_duration import examples

DOCS = Path(__file__).parents[2] / "docs" / "rules"
RULES = {rule.ID: rule for rule in rules()}
WATCHERS = {one.ID: one for one in watchers()}


@pytest.mark.parametrize("name", [*RULES, *WATCHERS])
def test_a_rule_is_a_file_of_its_own(name: str) -> None:
    rule: Any = RULES.get(name) or WATCHERS[name]
    path = Path(inspect.getfile(rule.find if name in RULES else rule.see))
    assert path.stem == name.replace("-", "_")
    for text in (rule.TITLE, rule.REASON, rule.SOURCE, rule.EXAMPLE, rule.MEND):
        assert text.strip() == text and text
    assert (
        tuple(one for one in ("error", "warning", "note") if one in rule.SEVERITIES)
        == rule.SEVERITIES
    )
    # Every severity it declares stands in its code, and no other one.
    tree = ast.parse(path.read_text(encoding="utf-8"))
    function = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    said = {
        node.value for one in function for node in ast.walk(one) if isinstance(node, ast.Constant)
    }
    assert said & {"error", "warning", "note"} == set(rule.SEVERITIES)


@pytest.mark.parametrize(
    ("batch_size", "grpo", "told"),
    [
        (32, {}, None),
        (24, {}, "24 completions a step, in groups of 8, are 3 questions"),
        (8, {}, "8 completions a step, in groups of 8, are 1 question:"),
        # Steps share what was generated: each sees completions of all eight questions.
        (16, {"generation_batch_size": 64}, None),
        (4, {"generation_batch_size": 16}, "16 completions a generation, which 4 steps share"),
        (4, {"generation_batch_size": 8}, "are 1 question:"),
    ],
)
def test_questions_are_counted_over_a_generation(
    batch_size: int, grpo: dict[str, int], told: str | None
) -> None:
    recipe = SimpleNamespace(
        train=SimpleNamespace(batch_size=batch_size), grpo=GRPOSection(rewards=["math"], **grpo)
    )
    found = list(
        RULES["few-questions-per-step"].find(SimpleNamespace(is_policy=True, recipe=recipe))
    )
    assert [one.severity for one in found] == ["warning"] * (told is not None)
    assert told is None or told in found[0].message


def test_answers_in_json_tell_no_language() -> None:
    """Keys and codes are no prose: they were told as German and English."""
    german = "Der Antrag auf Erstattung der Reisekosten wurde heute von der Verwaltung abgelehnt."
    told = {"category": "timesheet", "lang": "de", "summary": german}
    for answer, count in ((json.dumps(told), 0), (json.dumps([told]), 0), (f"[1] {german}", 1)):
        row = RowText(0, "d.jsonl:1", (("user", "Why?"), ("assistant", answer)), (False, True))
        found = languages_of(Sample("train", (row,), 1, np.ones(1)))
        assert sum(found.answers.values()) == count, answer


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_elsewhere_is_not_known(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """`check` runs where a recipe is written, which need not be where it trains."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    hardware = hardware_of(BaseSection(model="builtin", device=device))
    assert (hardware.device, hardware.has_bfloat16) == ("cuda", None)


def test_check_says_nothing_of_the_dtype_of_a_gpu_that_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    rows = [{"prompt": f"Dose {n}?", "completion": f"{n} tablets."} for n in range(8)]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": "builtin", "device": "cuda", "dtype": "bfloat16"},
            "data": {"train": str(data)},
        }
    )
    found = {finding.id for finding in lorakit.check(recipe).findings}
    assert "bfloat16-without-hardware" not in found


def test_names_that_a_recipe_may_silence_are_those_that_exist() -> None:
    assert set(CONTRACT_FINDINGS) == {*FINDINGS, "too-few-to-tell", "tokens-not-stored"}
    every = [*CONTRACT_FINDINGS, *RULES, *WATCHERS]
    assert finding_names() == tuple(sorted(set(every))) and len(set(every)) == len(every)
    assert set(kinds()) == {*every, "data-refused"}
    assert {one.id for one in kinds().values() if not one.can_be_silenced} == {"data-refused"}


def test_every_finding_has_its_page_and_no_page_is_old() -> None:
    written = pages()
    assert {path.name for path in DOCS.glob("*.md")} - {"real_data.md"} == set(written)
    for name, text in written.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, (
            f"{name} is old: python -m lorakit.lint.pages docs/rules"
        )
    index = written["README.md"]
    assert all(f"({name}.md)" in index for name in finding_names())


def test_pages_of_the_contract_speak_of_what_exists() -> None:
    assert set(PAGES) == {*CONTRACT_FINDINGS, "data-refused"}
    assert "never cut" in page_of(kinds()["rows-too-long"])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("near-duplicate", "near-duplicates"), ("loss-dont-fall", "loss-does-not-fall")],
)
def test_an_unknown_id_names_the_nearest(name: str, nearest: str) -> None:
    sections = {"base": {"model": "builtin"}, "data": {"train": "builtin:train"}}
    with pytest.raises(RecipeError, match=f"did you mean {nearest}"):
        lorakit.parse_recipe(sections | {"check": {"silence": [name]}})
    lorakit.parse_recipe(sections | {"check": {"silence": [nearest]}})


def test_silenced_findings_are_counted_and_the_worst_come_first() -> None:
    made = [
        Finding("few-rows", "warning", "a", ""),
        Finding("near-duplicates", "note", "b", ""),
        Finding("warmup-too-long", "error", "c", ""),
        Finding("near-duplicates", "note", "d", ""),
    ]
    linted = without_silenced(made, ["near-duplicates"])
    assert [one.id for one in linted.findings] == ["warmup-too-long", "few-rows"]
    assert linted.silenced == {"near-duplicates": 2}
    assert silenced_in_words(linted.silenced) == "2 findings of near-duplicates"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rows, a warm-up that never ends."""
    folder = tmp_path_factory.mktemp("linted")
    rows = [{"prompt": f"What helps against {n}?", "completion": f"Rest {n}."} for n in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(
        f"base: {{model: builtin, device: cpu}}\ndata: {{train: {folder / 'train.jsonl'}}}\n"
        f"train: {{warmup_steps: 100}}\noutput: {{dir: {folder / 'run'}}}\n"
    )
    return folder / "recipe.yaml"


def test_check_tells_the_linters_findings(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    silence = ["--set", "check.silence=[few-rows]"]
    assert main(["check", str(recipe), "--json", *silence]) == 1
    shown = json.loads(capfd.readouterr().out)
    by_id = {one["id"]: one for one in shown["findings"]}
    assert by_id["warmup-too-long"]["severity"] == "error"
    assert by_id["warmup-too-long"]["where"] == "train.warmup_steps"
    assert shown["silenced"] == {"few-rows": 1} and "few-rows" not in by_id


@pytest.mark.slow
def test_check_shows_what_is_silenced_and_trained(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    silence = ["--set", "check.silence=[warmup-too-long, few-rows]"]
    assert main(["check", str(recipe), *silence]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "silenced by check.silence: 1 finding of few-rows, 1 finding of warmup-too-long" in told
    # The stop token is shown, among what is trained.
    assert "Rest 0.<|end|>\u27e7" in told


def test_train_stops_at_an_error_before_anything_is_written(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe)]) == 2
    told = " ".join(capfd.readouterr().err.split())
    every, _, stopped = told.partition("training would be wrong: ")
    assert "[few-rows]" in every and "[warmup-too-long]" in every  # as `check` names them
    assert "100 warm-up steps" in stopped and "few-rows" not in stopped
    assert not (recipe.parent / "run").exists()


def test_html_in_questions_is_a_note(tmp_path: Path) -> None:
    rows = answered(60)
    for row in rows[:6]:
        row["prompt"] = f"<p>{row['prompt']}&nbsp;</p>"
    facts = Case(rows, measured=False).facts(tmp_path, tmp_path)
    (told,) = RULES["html-left-over"].find(facts)
    assert told.severity == "note" and "6 of 60 rows" in told.message and "ask with" in told.message


def test_near_rows_are_told_once_and_not_of_variants(tmp_path: Path) -> None:
    """A set asked in other words has the rows of its source; and what is done is not advised."""
    case = FLAWED["held-out-near-train"][0]
    section = {"evaluate": {"in_domain": "{test.jsonl}", "variants": ["typos", "case"]}}
    facts = replace(case, sections=section).facts(tmp_path, tmp_path)
    assert {"in_domain+typos", "in_domain+case"} <= set(facts.held_out)
    (told,) = RULES["held-out-near-train"].find(facts)
    assert told.message.startswith("in_domain: ") and "or split by data.group" in told.message
    data = facts.recipe.data.model_copy(update={"group": "patient"})
    grouped = replace(facts, recipe=facts.recipe.model_copy(update={"data": data}))
    (told,) = RULES["held-out-near-train"].find(grouped)
    assert "data.group" not in told.message


@pytest.mark.parametrize(
    ("section", "severities"),
    [
        ({}, ["warning"]),
        # Both are asked in other words, or of other topics, than was trained: named out of domain.
        ({"evaluate": {"variants": ["typos"]}}, ["note"]),
        ({"data": {"hold_out_topics": {"column": "topic"}}}, ["note"]),
        ({"evaluate": {"variants": ["typos"], "retention": "builtin:retention"}}, []),
    ],
)
def test_what_is_measured_out_of_domain_is_not_missed(
    section: dict[str, dict[str, Any]], severities: list[str]
) -> None:
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": "builtin"},
            "data": {"train": "builtin:train"} | section.get("data", {}),
            "evaluate": {"in_domain": "builtin:in_domain"} | section.get("evaluate", {}),
        }
    )
    found = list(RULES["out-of-domain-or-retention-missing"].find(SimpleNamespace(recipe=recipe)))
    assert [one.severity for one in found] == severities
    assert all("out_of_domain" not in one.message for one in found if one.severity == "note")


def test_a_run_that_goes_on_is_not_stopped_by_a_rule(tmp_path: Path) -> None:
    (case, *_) = FLAWED["warmup-too-long"]
    facts = case.facts(tmp_path, tmp_path)
    now, going_on = lint(facts), lint(facts, resumes=True)
    assert [one.id for one in going_on] == [one.id for one in now]
    errors = [one for one in now if one.severity == "error"]
    assert [one.id for one in errors] == ["warmup-too-long"]
    lowered = {one.message: one.severity for one in going_on}
    assert lowered[errors[0].message] == "warning"
    assert "error" not in lowered.values()


@pytest.mark.parametrize("seed", range(2))
def test_steps_are_those_of_the_order_that_is_drawn(seed: int) -> None:
    """Of 41 rows with weight 0.1 an epoch sees whole ones: not 4.1, which would be 5 steps."""
    rows, repeats = examples(41), np.full(41, 0.1)
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": "builtin"},
            "data": {"train": "builtin:train"},
            "train": {"batch_size": 1, "num_train_epochs": 3, "seed": seed},
        }
    )
    sets: Any = SimpleNamespace(train=SimpleNamespace(examples=rows, repeats=repeats))
    nothing: Any = None
    facts = Facts(recipe, sets, nothing, nothing, nothing)
    assert facts.num_steps == 3 * len(epoch_order(41, repeats, seed, 0))
    by_steps = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"max_steps": facts.num_steps})}
    )
    assert Facts(by_steps, sets, nothing, nothing, nothing).num_epochs == 3
