"""A corpus written without a look at the rules, whose flawed half no rule was made or mended for.

Its first reading: every one of 26 flaws was found, 23 as errors or warnings and three as notes. Of
20 sound cases two were accused: one wrongly (dialogues that end alike, since mended in
one-answer-dominates), and one with reason (the same sum under other names in both sets, which the
case draws once now).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.errors import DataError
from tests.lint.corpus.blind.case import Case
from tests.lint.corpus.blind.make import cases as make_cases
from tests.lint.corpus.case import told
from tests.lint.corpus.judging import findings_of

pytestmark = pytest.mark.slow

# The finding that names the flaw of a case: any other one would be right by chance.
NAMED_BY = {
    "helpdesk_wide": "rank-without-rslora",
    "recipes_forum": "alpha-over-twice-rank",
    "tenants_hot": "learning-rate-too-high",
    "clinic_attention": "few-modules-targeted",
    "shop_long_run": "epochs-against-rows",
    "museum_short_run": "few-steps",
    "shop_thinned": "dropout-against-rows",
    "tenants_few": "few-rows",
    "school_sums": "rank-for-reasoning",
    "recipes_only": "out-of-domain-or-retention-missing",
    "clinic_exports": "exact-duplicates",
    "helpdesk_channels": "near-duplicates",
    "tenants_split": "held-out-near-train",
    "staff_rules": "contradictory-answers",
    "shop_house_rules": "content-dropped",
    "council_minutes": "rows-too-long",
    "council_desk": "padding-waste",
    "office_mixture": "one-source-dominates",
    "clinic_branches": "languages-mixed",
    "helpdesk_pasted": "secrets",
    "shop_inbox": "personal-data",
    "recipes_scraped": "control-tokens-in-text",
    "helpdesk_plain": "plain-text-on-instruct-base",
    "stories_new_tokens": "grown-rows-untrained",
}
AS_NOTES = {"council_desk", "office_mixture", "clinic_branches"}
# What the data contract refuses, and in which words.
REFUSED = {
    "recipes_template": "refused by the chat template",
    "tenants_reviewed": "without a trained token",
}
OF_SHARED_DATA = {"school_sums", "stories_new_tokens"}
NUM_SOUND, NUM_SOUND_OF_SHARED_DATA = 20, 4


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    """{name: case}; dear to make."""
    return {case.name: case for case in make_cases()}


def test_every_case_is_judged(cases: dict[str, Case]) -> None:
    flawed = {name for name, case in cases.items() if case.flaw is not None}
    all_flawed = {*NAMED_BY, *REFUSED}
    assert all_flawed - OF_SHARED_DATA <= flawed <= all_flawed
    num_sound = len(cases) - len(flawed)
    assert NUM_SOUND - NUM_SOUND_OF_SHARED_DATA <= num_sound <= NUM_SOUND


@pytest.mark.parametrize("name", NAMED_BY)
def test_the_flaw_is_named(
    name: str, cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _case(name, cases)
    found = findings_of(case.write(tmp_path), monkeypatch)
    naming = [one for one in found if one.id == NAMED_BY[name]]
    assert naming, told(found)
    is_note = all(one.severity == "note" for one in naming)
    assert is_note == (name in AS_NOTES)


@pytest.mark.parametrize("name", REFUSED)
def test_the_flaw_is_refused(
    name: str, cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _case(name, cases)
    with pytest.raises(DataError, match=REFUSED[name]):
        findings_of(case.write(tmp_path), monkeypatch)


def test_sound_ones_are_left_alone(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accused = {}
    for case in (case for case in cases.values() if case.flaw is None):
        found = findings_of(case.write(tmp_path), monkeypatch)
        serious = [one for one in found if one.severity != "note"]
        if serious:
            accused[case.name] = told(serious)
    assert not accused


def _case(name: str, cases: dict[str, Case]) -> Case:
    if name not in cases:
        pytest.skip(f"{name} is made of data that is absent here")
    return cases[name]
