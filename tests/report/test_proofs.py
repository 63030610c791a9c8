"""What the page says about other wordings, over-fitting, memorisation and calibration."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from lorakit.evaluate.statistics import MIN_EXAMPLES, TOO_FEW
from lorakit.report.files import read_run
from lorakit.report.page import write_report
from lorakit.report.proof_files import Overfitting
from lorakit.report.proofs import (
    calibration_said,
    memorisation_said,
    overfitting_said,
    variants_said,
)
from lorakit.report.reliability import shown_bins
from lorakit.report.verdicts import set_verdicts
from lorakit.report.words import cost, p_words, set_name
from tests.report import runs
from tests.report.pages import parse

SECTIONS = ("variants", "overfitting", "memorisation", "calibration")


def evaluation(tmp_path: Path, **sets: dict[str, Any]) -> Any:
    runs.write(tmp_path / "evaluation.json", sets)
    return read_run(tmp_path).evaluation


@pytest.mark.parametrize(
    ("lost", "extra", "mark", "words"),
    [
        (0.2, 0.15, "worse", ["the tuned model loses", "more sensitive to that than its base"]),
        (0.2, 0.0, "worse", ["the tuned model loses", "does not show"]),
        (0.02, 0.01, "same", ["no loss of the tuned model shows", "does not show"]),
        (-0.2, -0.2, "better", ["the tuned model gains", "less sensitive"]),
    ],
)
def test_other_words(
    lost: float, extra: float, mark: str, words: list[str], tmp_path: Path
) -> None:
    """By content, which decides the set: higher is better, and of loss the other way round."""
    for primary in ("content", "loss"):
        one = runs.varied_set(random.Random(0), lost=lost, extra=extra) | {"primary": primary}
        (told,) = variants_said(evaluation(tmp_path, **{"in_domain+typos": one}))
        assert told.title == "In-domain, with typos" and told.said.effect == mark
        assert all(word in told.said.sentence for word in words), told.said.sentence
        assert told.said.sentence.startswith("Asked with typos, ")


@pytest.mark.parametrize(
    ("seen", "unseen", "half_width", "mark", "begins"),
    [
        (1.5, 1.1, 0.1, "worse", "Over-fitting: the loss per token fell by 1.500"),
        (1.5, 1.4, 0.05, "same", "Slight over-fitting"),
        (1.5, 1.45, 0.1, "same", "No over-fitting shows"),
        (1.5, 1.9, 0.1, "better", "No over-fitting:"),
        (1.5, -0.3, 0.1, "worse", "Learned by heart"),
        (-0.1, -0.1, 0.1, "same", "Nothing was gained"),
    ],
)
def test_over_fitting(
    seen: float, unseen: float, half_width: float, mark: str, begins: str
) -> None:
    one = Overfitting.model_validate(runs.overfitting(seen, unseen, half_width))
    excess, validation = overfitting_said(one)
    assert excess.effect == mark and excess.sentence.startswith(begins), excess.sentence
    assert "lowest at step 120" in validation.sentence and validation.effect == "worse"
    assert "early_stopping_patience" in validation.sentence


def test_which_weights_were_kept() -> None:
    facts = runs.overfitting()
    facts["validation"]["kept_step"] = 120
    kept = overfitting_said(Overfitting.model_validate(facts))[1]
    assert kept.effect == "same" and "the best weights, not the last" in kept.sentence
    facts["validation"] |= {"best_step": 160, "kept_step": 160}
    last = overfitting_said(Overfitting.model_validate(facts))[1]
    assert "the last weights are the best" in last.sentence
    facts["validation"] = None
    assert len(overfitting_said(Overfitting.model_validate(facts))) == 1


@pytest.mark.parametrize(
    ("references", "tuned", "mark", "begins"),
    [
        (0.1, 0.12, "same", "No copying beyond what the data repeat"),
        (0.1, 0.4, "worse", "Copies more than the data repeat themselves: 40.0 % of 60 answers"),
        (0.4, 0.1, "same", "No copying"),
    ],
)
def test_memorisation(
    references: float, tuned: float, mark: str, begins: str, tmp_path: Path
) -> None:
    one = runs.set_evaluation("in_domain", random.Random(0))
    one["memorisation"] = runs.memorisation(references, tuned)
    (told,) = memorisation_said(evaluation(tmp_path, in_domain=one))
    assert told.said.effect == mark and told.said.sentence.startswith(begins)


@pytest.mark.parametrize(
    ("base", "tuned", "mark", "words"),
    [
        (0.02, 0.09, "worse", "9.0 points too sure"),
        (0.09, 0.02, "better", "2.0 points too sure"),
        (-0.09, 0.02, "better", "9.0 points not sure enough"),
        (0.02, 0.025, "same", "As well calibrated as its base, as far as shows"),
        # Another direction, and as far: the change is clear, and it is none for the better.
        (0.05, -0.05, "same", "5.0 points not sure enough"),
        (-0.05, 0.052, "same", "5.2 points too sure"),
    ],
)
def test_calibration(base: float, tuned: float, mark: str, words: str, tmp_path: Path) -> None:
    one = runs.set_evaluation("in_domain", random.Random(0))
    one["calibration"] = runs.calibration(base, tuned)
    found = evaluation(tmp_path, in_domain=one)
    ((title, told),) = calibration_said(found)
    assert (title, told.effect) == ("In-domain", mark) and words in told.sentence


@pytest.mark.parametrize("base", [0.0423, -0.0423])
@pytest.mark.parametrize("less", [0.0002, -0.0002])
def test_figures_that_read_the_same_are_neither_better_nor_worse(
    base: float, less: float, tmp_path: Path
) -> None:
    """However sure the difference is."""
    one = runs.set_evaluation("in_domain", random.Random(0))
    one["calibration"] = runs.calibration(base, base - less)
    one["calibration"]["overconfidence"]["interval"] = [-less - 1e-5, -less + 1e-5]
    ((_, told),) = calibration_said(evaluation(tmp_path, in_domain=one))
    assert told.effect == "same" and told.sentence.count("4.2 points") == 2


def test_a_base_with_nothing_to_lose_is_not_called_robust(tmp_path: Path) -> None:
    one = runs.varied_set(random.Random(0), lost=0.3, extra=0.3)
    one["variant"]["metrics"]["content"]["base"]["given"] = 0.05
    (told,) = variants_said(evaluation(tmp_path, **{"in_domain+typos": one}))
    assert told.said.sentence.endswith("Its base, at 0.0500, has not as much to lose.")


@pytest.mark.parametrize("count", [2, MIN_EXAMPLES - 1, MIN_EXAMPLES])
def test_a_handful_of_examples_proves_nothing(count: int, tmp_path: Path) -> None:
    """Two that both lost have an interval that excludes zero, which happens by chance as well."""
    varied = runs.varied_set(random.Random(0), lost=0.3, extra=0.3)
    for metric in varied["variant"]["metrics"].values():
        metric["examples"] = count
    given = runs.set_evaluation("in_domain", random.Random(0))
    given["memorisation"] = runs.memorisation(0.1, 0.4) | {"answers": count}
    given["calibration"] = runs.calibration(0.02, 0.09)
    given["calibration"]["overconfidence"]["examples"] = count
    found = evaluation(tmp_path, **{"in_domain": given, "in_domain+typos": varied})
    said = [
        *(one.said for one in variants_said(found)),
        *(one.said for one in memorisation_said(found)),
        *(one for _, one in calibration_said(found)),
    ]
    expected = "worse" if count >= MIN_EXAMPLES else "few"
    assert len(said) == 3
    assert {one.effect for one in said} == {expected}, said
    assert all((TOO_FEW in one.sentence.lower()) == (expected == "few") for one in said)


def test_bins_of_a_handful_of_positions_are_not_drawn(tmp_path: Path) -> None:
    one = runs.set_evaluation("in_domain", random.Random(0))
    one["calibration"]["tuned"]["bins"][0]["count"] = 1
    found = evaluation(tmp_path, in_domain=one)["in_domain"].calibration
    assert len(shown_bins(found.tuned)) == len(found.tuned.bins) - 1
    assert len(shown_bins(found.base)) == len(found.base.bins)


def test_the_page_has_a_section_for_each_and_names_it(page: str) -> None:
    tree = parse(page)
    nav = [one.attributes["href"] for one in tree.all("nav")[0].all("a")]
    for name in SECTIONS:
        assert f"#{name}" in nav
        said = tree.by_id(name).with_class("said")
        assert said and all(one.text.strip().endswith(".") for one in said)
    shown = tree.by_id("memorisation").all("table")[0]
    assert runs.HOSTILE in shown.text and "train.jsonl:7" in shown.text
    assert "In-domain, with typos" in tree.by_id("variants").text
    assert tree.by_id("calibration").all("figure")


def test_a_variant_has_no_answers_and_no_plot_of_scores_of_its_own(page: str) -> None:
    tree = parse(page)
    for name in ("answers", "change"):
        titles = [one.text for one in tree.by_id(name).all("h3", "figcaption")]
        assert titles and not any("typos" in title for title in titles)
    assert "In-domain, with typos" in tree.by_id("change").all("table")[0].text


def test_what_was_not_measured_has_no_section(made: Path, tmp_path: Path) -> None:
    """Runs of before have none of it, and are told as before."""
    run = tmp_path / "run"
    shutil.copytree(made / "first", run)

    def forget(value: dict[str, Any]) -> None:
        del value["in_domain+typos"]
        for one in value.values():
            for key in ("calibration", "overfitting", "memorisation", "p_value", "correction"):
                one.pop(key, None)

    runs.edit(run / "evaluation.json", forget)
    page = write_report(run).read_text("utf-8")
    ids = [one.attributes.get("id") for one in parse(page).all("section")]
    assert not set(SECTIONS) & set(ids) and "Holm" not in page
    assert not any(f'href="#{name}"' in page for name in SECTIONS)


def test_a_distance_is_neither_better_nor_worse(page: str) -> None:
    tree = parse(page)
    (row,) = [
        one for one in tree.by_id("change").all("tr") if one.text.strip().startswith("KL to the")
    ]
    assert [one.text for one in row.with_class("far")] == ["\u25c7"]
    assert "a distance from the base" in tree.by_id("change").with_class("legend")[0].text


def test_verdicts_say_their_odds(tmp_path: Path) -> None:
    one = runs.set_evaluation("in_domain", random.Random(0))
    one |= {"p_value": 0.021, "p_value_corrected": 0.084, "survives_correction": False}
    one["notes"] = ["does not survive the correction for 4 verdicts read together"]
    runs.write(tmp_path / "evaluation.json", {"in_domain": one})
    (told,) = set_verdicts(read_run(tmp_path))
    assert "p\u00a00.021, p\u00a00.084 corrected for 4 verdicts (Holm)" in told.sentence
    assert "does not survive" in told.notes[0]
    one["correction"]["tests"] = 1
    runs.write(tmp_path / "evaluation.json", {"in_domain": one})
    (told,) = set_verdicts(read_run(tmp_path))
    assert told.sentence.endswith("p\u00a00.021.")


@pytest.mark.parametrize(
    ("loss", "verdict", "words"),
    [
        (-0.5, "better", "p\u00a0<\u00a00.001, "),
        (0.01, "no difference", "p\u00a0<\u00a00.001 for a loss of the margin or more, "),
        (0.7, "worse", "p\u00a0<\u00a00.001 for a loss within the margin, "),
        (0.12, "worse", "p\u00a0<\u00a00.001 for a loss of just the margin, "),
    ],
)
def test_the_odds_of_retention_are_of_its_verdict(
    loss: float, verdict: str, words: str, tmp_path: Path
) -> None:
    one = runs.set_evaluation("retention", random.Random(0)) | {"verdict": verdict}
    one["metrics"]["loss"] = runs.change(2.0, 2.0 + loss, 0.05, higher_is_better=False)
    runs.write(tmp_path / "evaluation.json", {"retention": one})
    (told,) = set_verdicts(read_run(tmp_path))
    assert f"; {words}" in told.sentence


def test_where_nothing_is_copied_there_is_no_mark(tmp_path: Path) -> None:
    """A longer run of common words is no copy."""
    one = runs.set_evaluation("retention", random.Random(0))
    one["memorisation"] = runs.memorisation(references=0.0, tuned=0.0)
    one["memorisation"]["longest_run"] |= {"difference": 2.0, "interval": [1.0, 3.0]}
    (told,) = memorisation_said(evaluation(tmp_path, retention=one))
    assert told.said.effect == "same" and told.said.sentence.startswith("Nothing is copied: 0.0")


def test_words() -> None:
    assert (p_words(0.0001), p_words(0.0214)) == ("p\u00a0<\u00a00.001", "p\u00a00.021")
    assert set_name("in_domain+word_order") == "In-domain, in another word order"
    assert (cost(4.29e-06), cost(0.0), cost(12.5)) == ("< 0.001", "0.000", "12.50")
    assert set_name("in_domain+what_is_this") == "In-domain, what is this"


def test_variants_are_told_behind_their_source(tmp_path: Path) -> None:
    one = runs.set_evaluation("in_domain", random.Random(0))
    named = ["in_domain", "in_domain+case", "in_domain+typos", "out_of_domain", "retention", "zoo"]
    found = evaluation(tmp_path, **dict.fromkeys(sorted(named, reverse=True), one))
    assert list(found) == [*named[:1], *sorted(named[1:3], reverse=True), *named[3:]]
