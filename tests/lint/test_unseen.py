"""The corpus of somebody who had not seen the rules: flaws are found, sound sets are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.data.contract import Finding
from tests.lint.corpus.case import told
from tests.lint.corpus.judging import findings_of
from tests.lint.corpus.unseen import make

pytestmark = pytest.mark.slow

# The findings that name the flaw of a case: any other warning would be right by chance.
NAMED_BY = {
    "rate_far_too_high": {"learning-rate-too-high"},
    "rate_far_too_low": {"learning-rate-too-low"},
    "eighty_epochs": {"epochs-against-rows"},
    "alpha_out_of_proportion": {"alpha-over-twice-rank"},
    "two_steps_in_all": {"few-steps"},
    "prompts_trained_too": {"prompts-are-trained"},
    "most_rows_too_long": {"rows-too-long"},
    "pattern_that_fits_everything": {"scorer-accepts-anything"},
    "answers_cut_in_evaluation": {"reference-longer-than-generated"},
    "nothing_held_out": {"nothing-held-out"},
    "test_rows_in_train": {"rows-shared-with-train"},
    "test_rows_reworded_from_train": {"held-out-near-train"},
    "patients_on_both_sides": {"group-on-both-sides"},
    "same_ticket_two_labels": {"contradictory-answers"},
    "rows_pasted_again": {"exact-duplicates"},
    "assistant_boilerplate": {"assistant-boilerplate", "refusals"},
    "answers_cut_off": {"answers-break-off", "answers-cut"},
    "foreign_chat_markup": {"control-tokens-in-text"},
    "personal_data": {"personal-data"},
    "label_in_the_prompt": {"label-in-prompt"},
    "one_label_many_spellings": {"labels-spelled-differently"},
    "broken_json": {"json-answers-broken"},
    "speakers_swapped": {"roles-swapped"},
    "answers_one_row_off": {"answers-one-row-off"},
}
NUM_FLAWED, NUM_SOUND = 24, 12


@pytest.fixture(scope="module")
def cases() -> dict[str, make.Case]:
    """{name: case}; dear to make."""
    return {case.name: case for case in make.cases()}


def test_every_case_is_judged(cases: dict[str, make.Case]) -> None:
    flawed = {name for name, case in cases.items() if case.flaw is not None}
    assert flawed == set(NAMED_BY)
    assert (len(flawed), len(cases) - len(flawed)) == (NUM_FLAWED, NUM_SOUND)


@pytest.mark.parametrize("name", NAMED_BY)
def test_the_flaw_is_named(
    name: str, cases: dict[str, make.Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _serious(cases[name], tmp_path, monkeypatch)
    assert {one.id for one in found} & NAMED_BY[name], told(found)


def test_sound_ones_are_left_alone(
    cases: dict[str, make.Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accused = {
        case.name: told(found)
        for case in cases.values()
        if case.flaw is None and (found := _serious(case, tmp_path, monkeypatch))
    }
    assert not accused


def _serious(case: make.Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Errors and warnings."""
    found = findings_of(case.write(folder), monkeypatch)
    return [one for one in found if one.severity != "note"]
