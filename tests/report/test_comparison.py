"""Several runs on one page: what differs, what may be claimed, and what is never overwritten."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lorakit
from lorakit.errors import InputError
from lorakit.report.comparison import write_comparison
from lorakit.report.evaluation_files import Answer, Scores
from lorakit.report.files import RunFiles, read_run
from lorakit.report.page import write_report
from lorakit.report.pairs import pairs_of
from lorakit.report.recipes import differing_settings, settings_of
from tests.report.pages import parse


@pytest.fixture
def runs_read(made: Path) -> list[RunFiles]:
    return [read_run(made / name) for name in ("first", "second")]


def test_the_page_names_what_differs_and_nothing_else(comparison: str) -> None:
    section = parse(comparison).by_id("settings")
    keys = [row.all("code")[0].text for row in section.all("tbody")[0].all("tr")]
    assert keys == ["adapter.r", "adapter.use_dora", "train.seed"]


def test_every_run_has_its_letter_and_its_verdicts(comparison: str) -> None:
    rows = parse(comparison).by_id("runs").all("tbody")[0].all("tr")
    assert [row.all("th")[0].text for row in rows] == ["A first", "B second", "C third <b>"]
    assert all("better" in row.text and "kept" in row.text for row in rows)


def test_settings_mark_what_was_changed() -> None:
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": "some/model"},
            "adapter": {"r": 32, "lora_dropout": 0.0},
            "data": {"train": ["a.jsonl", {"path": "b.jsonl", "weight": 0.5}]},
        }
    )
    settings = {one.key: one for one in settings_of(recipe)}
    changed = {key for key, one in settings.items() if one.changed}
    assert changed == {"base.model", "adapter.r", "data.train", "output.dir"}
    assert settings["adapter.r"].default == "16"
    assert settings["base.model"].default is None
    assert settings["data.train"].value == "[a.jsonl, {path: b.jsonl, weight: 0.5}]"
    assert settings["train.learning_rate"].value == "0.0002"
    assert settings["base.double_quantization"].value == "true"
    assert settings["base.revision"].value == "null"
    assert differing_settings([recipe, recipe]) == []


def test_a_pair_is_the_paired_difference_of_the_tuned_models(runs_read: list[RunFiles]) -> None:
    pairs = pairs_of(runs_read)
    assert [one.set for one in pairs[::4]] == ["in_domain", "out_of_domain", "retention"]
    for pair in pairs:
        first, second = (
            np.array([one.scores[pair.metric].tuned for one in run.answers if one.set == pair.set])
            for run in runs_read
        )
        assert pair.change.difference == pytest.approx(float((second - first).mean()))
        low, high = pair.change.interval
        assert low is not None and high is not None
        # The normal interval of the paired differences, which 21 of them come close to.
        half = 1.96 * (second - first).std(ddof=1) / np.sqrt(len(first))
        assert (high - low) / 2 == pytest.approx(half, rel=0.15)
        assert pair.change.enough and pair.change.examples == 21


def test_a_difference_counts_when_it_survives_all_the_others(runs_read: list[RunFiles]) -> None:
    """One metric of a set differs for sure, another by a little; ten do not."""
    first, second = runs_read

    def shifted(answer: Answer) -> Answer:
        scores = dict(first_scores[answer.set, answer.index])
        if answer.set == "in_domain":
            for metric, by in (("content", 0.5), ("outline", 0.02 * (answer.index < 6))):
                one = scores[metric]
                scores[metric] = Scores(base=one.base, tuned=one.tuned + by)
        return answer.model_copy(update={"scores": scores})

    first_scores = {(one.set, one.index): one.scores for one in first.answers}
    pairs = pairs_of([first, replace(second, answers=[shifted(one) for one in second.answers])])
    by_metric = {one.metric: one for one in pairs if one.set == "in_domain"}
    assert by_metric["content"].effect == "better" and by_metric["content"].corrected < 0.01
    weak = by_metric["outline"]
    assert weak.p_value < 0.05 < weak.corrected and weak.effect == "same"
    assert weak.change.interval[0] is not None and weak.change.interval[0] > 0
    assert all(one.effect == "same" for one in pairs if one.metric not in ("content", "outline"))


def test_nothing_is_claimed_about_runs_that_answered_other_rows(runs_read: list[RunFiles]) -> None:
    first, second = runs_read
    others = [
        one.model_copy(update={"reference": "another"}) if one.index == 4 else one
        for one in second.answers
        if one.set == "in_domain"
    ]
    assert pairs_of([first, replace(second, answers=others)]) == []
    assert pairs_of([first, replace(second, answers=second.answers[1:])])[0].set != "in_domain"
    assert pairs_of([first, replace(second, answers=[])]) == []


def test_only_metrics_that_both_runs_have_are_paired(runs_read: list[RunFiles]) -> None:
    first, second = runs_read
    fewer = [
        one.model_copy(
            update={"scores": {"outline": Scores(base=0, tuned=1), "own": one.scores["outline"]}}
        )
        for one in second.answers
    ]
    assert {one.metric for one in pairs_of([first, replace(second, answers=fewer)])} == {"outline"}


def test_few_answers_are_too_few_to_tell(made: Path, tmp_path: Path) -> None:
    folders = []
    for name in ("first", "second"):
        folders.append(tmp_path / name)
        shutil.copytree(made / name, folders[-1])
        lines = (folders[-1] / "answers.jsonl").read_text("utf-8").splitlines(keepends=True)
        (folders[-1] / "answers.jsonl").write_text("".join(lines[:19]), "utf-8")
    page = write_comparison(folders, tmp_path / "page.html").read_text("utf-8")
    section = parse(page).by_id("pairs")
    assert "too few examples to tell" in section.text
    assert not section.with_class("better") and not section.with_class("worse")


def test_runs_without_anything_in_common_make_a_page(made: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copy(made / "first" / "choices.json", tmp_path / "bare")
    written = write_comparison([tmp_path / "bare", made / "second"], tmp_path / "page.html")
    tree = parse(written.read_text("utf-8"))
    assert "what was set differently is not known" in tree.by_id("settings").text
    assert "which one is better is not claimed" in tree.by_id("pairs").text
    assert "Not in A bare: recipe.yaml" in tree.by_id("runs").text


def test_a_file_of_the_user_is_never_overwritten(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = [made / "first", made / "second"]
    assert write_comparison(both) == Path("report.html")
    with pytest.raises(InputError, match="exists and is not overwritten"):
        write_comparison(both)
    assert write_comparison(both, Path("report.html")).exists()  # named, and ours
    for name, content in (("thesis.html", "<html>mine</html>"), ("empty.html", "")):
        Path(name).write_text(content)
        with pytest.raises(InputError, match="is not overwritten"):
            write_comparison(both, Path(name))
        with pytest.raises(InputError, match="is not overwritten"):
            write_report(made / "first", Path(name))
        assert Path(name).read_text() == content


def test_runs_that_cannot_be_compared_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than once"):
        write_comparison([made / "first", made / "second" / ".." / "first"], tmp_path / "p.html")
    with pytest.raises(InputError, match="at most 8"):
        write_comparison([made / str(n) for n in range(9)], tmp_path / "p.html")
    assert not list(tmp_path.iterdir())
