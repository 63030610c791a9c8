"""The page of a check, and both verbs that write a page."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lorakit.cli import main
from lorakit.report.check_page import check_page
from tests.report.pages import Element, headline, parse
from tests.report.plans import check_told, plan_recipe
from tests.report.runs import HOSTILE

SOURCE = Path("clinic.yaml")


@cache
def whole() -> Element:
    """The page of a check with findings of every severity."""
    return checked()


def checked(**changed: Any) -> Element:
    return parse(check_page(check_told(**changed), plan_recipe(), source=SOURCE))


def test_the_check_s_page_groups_findings_by_severity() -> None:
    tree = whole()
    assert headline(tree) == "▼ 1 error, 1 warning and 1 note: training this would be wrong."
    findings = tree.by_id("findings")
    titles = [" ".join(one.text.split()) for one in findings.all("h3")]
    assert titles == ["Errors 1", "Warnings 1", "Notes 1", "Silenced by the recipe"]
    first = findings.all("li")[0].text
    for said in ("stop-token-never-trained", "never learns", "trl#2059", "docs/rules/stop-token"):
        assert said in first
    assert HOSTILE in first
    assert len(tree.all("script")) == 1


def test_a_check_without_findings_says_so() -> None:
    tree = checked(findings=[], silenced={}, explained={})
    assert headline(tree) == "▲ Nothing speaks against training this."
    assert "None: every row passed" in tree.by_id("findings").text


def test_a_refused_set_has_a_page() -> None:
    refused = {"id": "data-refused", "severity": "error", "message": "no row left", "where": ""}
    tree = checked(sets={}, examples=[], findings=[refused], stops=[], silenced=None)
    assert headline(tree) == "▼ 1 error: training this would be wrong."
    assert "A set was refused" in tree.by_id("rows").text
    assert "No example is shown" in tree.by_id("trained").text


def test_of_questions_nothing_is_called_trained() -> None:
    recipe = plan_recipe()
    recipe.train.method = "grpo"
    tree = parse(check_page(check_told(), recipe, source=SOURCE))
    for told, page in (("What is asked", tree), ("What is trained", whole())):
        assert told in page.by_id("trained").text
        assert told in page.all("nav")[0].text
    assert "Only trained tokens" not in tree.text and "nothing of it is trained" in tree.text
    assert "completions that the model writes itself" in tree.by_id("trained").text


def test_trained_tokens_are_marked_and_their_stop_is_framed() -> None:
    tree = whole()
    (first, second) = tree.by_id("trained").with_class("tokens")
    (mark,) = first.all("mark")
    assert mark.text.startswith("trained: ⟦Assessment:\n") and mark.text.endswith("<|im_end|>⟧")
    stops = first.with_class("stop")
    # The same token ends the question; there it is read, not trained.
    assert [one.text for one in stops] == ["<|im_end|>"]
    assert stops[0] in mark.all()
    assert len(second.with_class("stop")) == 2


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"What helps against complaint {n}?", "completion": f"Rest, {n} days."}
        for n in range(12)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"base: {{model: {tiny_folder}, device: cpu}}\nadapter: {{r: 4}}\n"
        f"data: {{train: {tmp_path}/train.jsonl}}\n"
    )
    return path


@pytest.mark.parametrize("verb", ["plan", "check"])
def test_the_verbs_write_their_pages(
    verb: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html = recipe.with_name("page.html")
    assert main([verb, str(recipe), "--html", str(html), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    tree = parse(html.read_text("utf-8"))
    assert tree.all("svg")
    if verb == "check":
        assert len(tree.by_id("trained").with_class("tokens")) == 3
        assert tree.by_id("trained").with_class("tokens")[0].with_class("stop")


def test_a_place_that_is_taken_is_refused_before_the_work(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(recipe), "--html", str(recipe)]) == 2
    assert "was not written by lorakit" in capsys.readouterr().err
    assert main(["plan", str(recipe), "--html", str(recipe.parent / "no" / "p.html")]) == 2
    assert "does not exist" in capsys.readouterr().err
