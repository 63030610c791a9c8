"""The page of five ways: its numbers, what it leaves out, and whose text it escapes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lorakit.errors import RunError
from lorakit.report.ways_files import Answered, WaysFile
from lorakit.report.ways_page import shown_answers, ways_page, write_ways_page
from tests.report.pages import Element, columns, headline, parse
from tests.report.runs import HOSTILE
from tests.report.ways import TITLES, answers_told, compare_told


@cache
def whole() -> Element:
    """The page of five ways of which everything is known."""
    return compared()


def compared(answers: list[dict[str, Any]] | None = None, **changed: Any) -> Element:
    found = TypeAdapter(WaysFile).validate_python(compare_told(**changed))
    lines = answers_told() if answers is None else answers
    answered = TypeAdapter(list[Answered]).validate_python(lines)
    return parse(ways_page(found, answered, source=Path("compare.json")))


def test_the_compare_page_says_what_was_found() -> None:
    tree = whole()
    assert headline(tree) == "Take tuned + retrieval."
    rows = columns(tree.by_id("ways").all("table")[0])
    assert list(rows) == [
        "A plain prompt", "B few-shot", "C retrieval", "D tuned",
        "E tuned + retrieval recommended",
    ]  # fmt: skip
    cells = rows["C retrieval"]
    assert cells[0] == "0.520 (0.470 to 0.570)"
    assert cells[1].split() == ["▲", "better", "+0.210", "(+0.150", "to", "+0.270)"]
    assert cells[2] == "412 + 96" and cells[3] == "1.210 (2.400)" and cells[4] == "0.580"
    assert rows["A plain prompt"][1] == "\u2013"
    costs = tree.by_id("costs").text
    assert "tuned has cost less than retrieval from 4,100 calls on" in costs
    # None stands for a little cheaper as well: what is within 10 % was not measured apart.
    assert (
        "costs as much by the call as retrieval, within 10%, or more: its set-up is never" in costs
    )
    assert len(tree.by_id("costs").all("svg")) == 2
    assert len(tree.by_id("quality").all("svg")) == 2


def test_answers_stand_side_by_side_with_what_they_cite() -> None:
    tree = whole()
    samples = tree.by_id("answers").all("article")
    assert [one.all("h3")[0].text.split()[0] for one in samples] == ["Best", "Typical", "Worst"]
    names = [one.text.strip() for one in samples[0].all("dt")]
    assert names[:2] == ["Question", "Reference"]
    assert [name.split("0.")[0].strip()[2:] for name in names[2:]] == list(TITLES.values())
    sources = samples[0].with_class("sources")
    assert len(sources) == 2
    first, second = sources[0].all("li")
    assert "cited" in first.text and "The airways swell" in first.text
    assert "cited" not in second.text and "b.md:9" in second.text


def test_text_of_models_and_documents_stays_text() -> None:
    tree = whole()
    assert len(tree.all("script")) == 1
    for section in ("verdict", "costs", "answers"):
        assert HOSTILE in tree.by_id(section).text, section
    assert HOSTILE in tree.all("footer")[0].text


def test_ways_with_hostile_titles_are_drawn_as_text() -> None:
    told = compare_told()
    told["ways"]["tuned"]["title"] = f"{HOSTILE} $a$"
    told["cost_basis"]["unit"] = "<b>$U$</b>"
    tree = compared(ways=told["ways"], cost_basis=told["cost_basis"])
    assert len(tree.all("script")) == 1
    assert "<b>$U$</b>" in tree.by_id("costs").all("svg")[0].text


@pytest.mark.parametrize("verdict", ["tie", "too few examples to tell"])
def test_a_verdict_that_names_no_single_way(verdict: str) -> None:
    said = {"verdict": verdict, "way": None, "candidates": ["base", "tuned"], "best": "tuned"}
    assert headline(compared(recommendation=said)).endswith("plain prompt and tuned.")
    said |= {"way": "base"}
    if verdict == "tie":
        assert "A tie" in headline(compared(recommendation=said))


def test_none_that_is_good_enough_is_the_verdict() -> None:
    said = {"verdict": "none is good enough", "way": None, "candidates": [], "best": "base"}
    found = compared(recommendation=said)
    assert headline(found) == (
        "None is good enough: token F1 is 0 for plain prompt, few-shot, retrieval, tuned and tuned "
        "+ retrieval."
    )


def test_ways_without_numbers_have_a_page() -> None:
    told = compare_told()["ways"]
    known = {name: {"title": way["title"], "metrics": way["metrics"]} for name, way in told.items()}
    tree = compared(ways=known)
    assert "None" not in tree.by_id("ways").text
    assert columns(tree.by_id("ways").all("table")[0])["D tuned"][2:] == ["not known"] * 4
    assert "What a call costs is not known" in tree.by_id("costs").text
    assert tree.by_id("quality").all("svg")


def test_a_comparison_without_what_may_be_absent_has_a_page() -> None:
    kept = ("examples", "primary", "ways", "recommendation")
    told = {name: value for name, value in compare_told().items() if name in kept}
    found = TypeAdapter(WaysFile).validate_python(told)
    tree = parse(ways_page(found, [], source=Path("compare.json")))
    assert "None" not in tree.by_id("main").text
    assert "no answers are shown" in tree.by_id("answers").text


def test_one_way_alone_has_a_page() -> None:
    only = {"base": compare_told()["ways"]["base"]}
    said = {"verdict": "recommended", "way": "base", "best": "base"}
    tree = compared(ways=only, recommendation=said, not_measured={"tuned": f"no run {HOSTILE}"})
    assert "nothing to hold it against" in tree.by_id("quality").text
    assert HOSTILE in tree.by_id("ways").text


def test_ways_without_the_plain_one_are_held_against_the_best() -> None:
    told = compare_told()
    del told["ways"]["base"]
    for name, way in told["ways"].items():
        quality = way["metrics"]["token_f1"]
        quality["against_base"] = None
        if name != "tuned_retrieval":
            quality["against_best"] = {"difference": -0.2, "interval": [-0.3, -0.1]}
    tree = compared(ways=told["ways"])
    assert "Against tuned + retrieval" in tree.by_id("ways").text
    assert columns(tree.by_id("ways").all("table")[0])["B retrieval"][1].startswith("▼")


def test_the_shown_answers_are_the_extremes() -> None:
    found = TypeAdapter(WaysFile).validate_python(compare_told())
    answered = TypeAdapter(list[Answered]).validate_python(answers_told())
    shown = shown_answers(found, answered)
    gains = [one.gain for one in shown]
    assert gains == sorted(gains, reverse=True) and len(set(gains)) == 3
    assert [one.answered.index for one in shown] == [4, 2, 0]


def test_a_damaged_comparison_is_told(tmp_path: Path) -> None:
    output, answers = tmp_path / "page.html", tmp_path / "compare_answers.jsonl"
    with pytest.raises(RunError, match="not there"):
        write_ways_page(tmp_path / "compare.json", answers, output)
    (tmp_path / "compare.json").write_text(json.dumps(compare_told(ways={})))
    with pytest.raises(RunError, match="no way was measured"):
        write_ways_page(tmp_path / "compare.json", answers, output)
    assert not output.exists()
    (tmp_path / "compare.json").write_text(json.dumps(compare_told()))
    write_ways_page(tmp_path / "compare.json", answers, output)
    assert parse(output.read_text("utf-8"))
