"""Laws of every page: self-contained, escaped, in order, the same twice, and never silent."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.report.comparison import write_comparison
from lorakit.report.page import write_report
from lorakit.report.words import printable
from tests.report import runs
from tests.report.pages import parse

LOADING = ("src", "srcset", "data", "poster", "action", "background", "ping")


def test_nothing_is_loaded_from_anywhere(any_page: str) -> None:
    tree = parse(any_page)
    for element in tree.all():
        assert not set(element.attributes) & set(LOADING), element.tag
        target = element.attributes.get("href", "#")
        assert target.startswith("#") or (element.tag, target) == ("link", "data:,"), target
        for found in re.findall(r"url\(([^)]*)\)", " ".join(element.attributes.values())):
            assert found.startswith("#")
    assert not tree.all("img", "iframe", "object", "embed", "video", "audio", "form", "base")
    (style,) = tree.all("style")
    assert "url(" not in style.text and "@import" not in style.text


def test_the_page_forbids_every_load_and_every_other_script(any_page: str) -> None:
    tree = parse(any_page)
    (policy,) = [
        one.attributes["content"]
        for one in tree.all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data:"
    (script,) = tree.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert allowed["script-src"] == f"'sha256-{digest}'"
    for storage in ("localStorage", "sessionStorage", "cookie", "fetch", "XMLHttp", "import("):
        assert storage not in script.text


def test_text_from_data_stays_text(page: str, comparison: str) -> None:
    tree = parse(page)
    assert len(tree.all("script")) == 1
    shown = [one.text for one in tree.with_class("text")]
    assert any(runs.HOSTILE in text for text in shown)
    assert any(str(printable(runs.ODD)) in text for text in shown)
    assert any(runs.RIGHT_TO_LEFT in text for text in shown)
    assert runs.HOSTILE in tree.by_id("verdict").text  # a note of the evaluation
    assert runs.HOSTILE in tree.by_id("data").text  # a finding, and a token
    assert runs.HOSTILE in tree.by_id("recipe").text  # a path
    forgotten = tree.by_id("forgotten")
    assert runs.HOSTILE in forgotten.all("table")[0].text and "general.jsonl:3" in forgotten.text
    assert "third <b>" in parse(comparison).by_id("runs").text
    assert not parse(comparison).all("b")


def test_every_text_of_unknown_direction_finds_its_own(page: str) -> None:
    tree = parse(page)
    for element in tree.with_class("text") + tree.with_class("tokens"):
        assert element.attributes["dir"] == "auto"


def test_control_characters_and_half_characters_become_visible() -> None:
    assert printable("a\x00b\x07c\ud83dd\x85") == "a\u2400b\u2407c\ufffdd\ufffd"
    assert printable("tab\t line\n \U0001f600") == "tab\t line\n \U0001f600"


def test_headings_are_in_order_and_the_landmarks_there(any_page: str) -> None:
    tree = parse(any_page)
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(tree.all(landmark)) == 1, landmark
    levels = [int(one.tag[1]) for one in tree.by_id("main").all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    for table in tree.all("table"):
        assert table.all("thead") and table.all("th")
        assert all("scope" in cell.attributes for cell in table.all("th"))


def test_ids_are_unique_and_every_reference_has_one(any_page: str) -> None:
    tree = parse(any_page)
    ids = [one.attributes["id"] for one in tree.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for element in tree.all():
        referred = element.attributes.get("aria-labelledby", "").split()
        referred += re.findall(r"url\(#([^)]*)\)", " ".join(element.attributes.values()))
        if element.attributes.get("href", "").startswith("#"):
            referred.append(element.attributes["href"][1:])
        assert set(referred) <= set(ids), element.tag


def test_every_plot_says_what_it_shows(any_page: str) -> None:
    tree = parse(any_page)
    figures = tree.all("figure")
    assert figures
    for figure in figures:
        (svg,) = figure.all("svg")
        (title,), (description,), (caption,) = (
            figure.all(tag) for tag in ("title", "desc", "figcaption")
        )
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-labelledby"].split() == [
            title.attributes["id"],
            description.attributes["id"],
        ]
        assert re.search(r"\d", description.text)
        assert title.text and caption.text.strip()


def test_plots_have_the_page_s_colours_and_fonts_only(any_page: str) -> None:
    tree = parse(any_page)
    css = tree.all("style")[0].text
    defined = set(re.findall(r"--([a-z0-9-]+):", css))
    for svg in tree.all("svg"):
        assert not svg.all("style", "metadata")
        drawn = " ".join(value for one in svg.all() for value in one.attributes.values())
        assert not re.search(r"#[0-9a-f]{6}\b|font-family|rgb\(", drawn)
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", drawn)) <= defined
        sizes = [float(size) for size in re.findall(r"font-size:([\d.]+)px", drawn)]
        # On a phone of 390 px a plot keeps 358 of its 440 px.
        assert sizes and min(sizes) * 358 / 440 > 9


def test_the_same_files_give_the_same_page(made: Path, page: str) -> None:
    assert write_report(made / "first").read_text("utf-8") == page


FILES = {
    "recipe.yaml": "recipe",
    "plan.json": "numbers",
    "choices.json": "numbers",
    "metrics.jsonl": "training",
    "data.json": "data",
    "evaluation.json": "change",
    "answers.jsonl": "answers",
}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_where_it_is_missed(name: str, made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "first", run)
    (run / name).unlink()
    tree = parse(write_report(run).read_text("utf-8"))
    told = " ".join(one.text for one in tree.by_id(FILES[name]).with_class("absent"))
    assert f"There is no {name}" in told
    (footer,) = tree.all("footer")
    assert f"not there: {name}" in footer.text


@pytest.mark.parametrize("name", FILES)
def test_one_file_alone_makes_a_page(name: str, made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "first" / name, tmp_path / name)
    tree = parse(write_report(tmp_path).read_text("utf-8"))
    for other, section in FILES.items():
        if other != name:
            assert other in tree.by_id(section).text or other in tree.all("footer")[0].text


def test_a_set_too_odd_for_numbers_is_told(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "first", run)
    unknown = {"base": None, "tuned": None, "difference": None, "interval": [None, None]}

    def break_loss(value: dict) -> None:
        value["retention"]["metrics"]["loss"] = unknown
        value["odd $set$"] = value["in_domain"] | {"metrics": {"a_$name$_<b>": unknown}}

    runs.edit(run / "evaluation.json", break_loss)
    tree = parse(write_report(run).read_text("utf-8"))
    assert "beyond a number" in tree.by_id("change").text
    assert "a $name$ <b>" in tree.by_id("change").text
    assert "odd $set$" in tree.by_id("verdict").text


def test_long_curves_are_thinned_and_the_page_says_so(made: Path, tmp_path: Path) -> None:
    import random

    run = tmp_path / "run"
    shutil.copytree(made / "first", run)
    runs.write_lines(run / "metrics.jsonl", runs.metrics_lines(random.Random(0), steps=4000))
    page = write_report(run).read_text("utf-8")
    assert "the mean of about 10 logged steps" in parse(page).by_id("training").text
    assert len(page) < 400_000


def test_few_examples_have_a_mark_of_their_own(made: Path, tmp_path: Path) -> None:
    """No interval that excludes zero stands beside a mark that says it holds zero."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(made / folder.name, folder)
        runs.edit(folder / "evaluation.json", _few)
    pages = [write_report(folders[0]), write_comparison(folders, tmp_path / "page.html")]
    for path, told in zip(pages, ("change", "results"), strict=True):
        page = parse(path.read_text("utf-8"))
        for table in page.by_id(told).all("table"):
            marks = {one.text for one in table.with_class("few")}
            assert marks == {"\u25a1"} and not table.with_class("same")
            assert "too few examples to tell" in table.text
        (legend,) = page.by_id(told).with_class("legend")
        assert "\u25a1 too few examples to tell" in legend.text
        assert "no difference" not in page.text


def _few(evaluation: dict) -> None:
    for one in evaluation.values():
        one |= {"examples": MIN_EXAMPLES - 1, "verdict": "no difference"}
        for metric in one["metrics"].values():
            metric.pop("examples", None)
