"""Every flaw of the corpus is found by its rule, and nothing is said against what is sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.lint import rules
from lorakit.lint.lint import lint
from tests.lint.corpus.case import Case, told
from tests.lint.corpus.flawed import FLAWED
from tests.lint.corpus.sound import SOUND

RULES = {rule.ID: rule for rule in rules()}
# Models of languages are read, changes that make a run fit are planned one by one.
DEAR = {"languages-mixed", "does-not-fit"}
# One of each kind; the others are in the slow run.
QUICK = {
    "questions and answers",
    "a field that guesses",
    "lists and signatures without a full stop",
    "a pattern of labels decides",
}
CASES = [
    # What it is measured on matters to few rules, and further cases of a rule take their time.
    pytest.param(
        name,
        replace(case, measured=False),
        id=f"{name}-{number}",
        marks=[pytest.mark.slow] if number or name in DEAR else [],
    )
    for name, cases in FLAWED.items()
    for number, case in enumerate(cases)
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of the sets that many cases share."""
    return tmp_path_factory.mktemp("tokens")


def test_every_rule_has_a_flawed_case() -> None:
    assert set(RULES) == set(FLAWED)
    assert len(CASES) >= 40 and len(SOUND) >= 20
    for name, cases in FLAWED.items():  # a rule that can warn does, whatever else it only notes
        assert all(case.is_note for case in cases) == (RULES[name].SEVERITIES == ("note",)), name


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_flaw_is_found(name: str, case: Case, tmp_path: Path, cache: Path) -> None:
    facts = case.facts(tmp_path, cache)
    found = list(RULES[name].find(facts))
    assert found, f"{name} does not see it"
    assert {one.id for one in found} == {name}
    severities = {one.severity for one in found}
    assert severities <= set(RULES[name].SEVERITIES)
    # A flaw is found when it is told as one; where a note is all it is worth the case says so.
    assert (severities == {"note"}) == case.is_note, told(found)
    # Named: rows by file and line, which are there, or a key of the recipe.
    for one in found:
        places = one.to_json()["places"]
        assert places
        for place in places:
            if "key" in place:
                assert place["key"].split(".")[0] in type(facts.recipe).model_fields
            else:
                lines = Path(place["file"]).read_text("utf-8").splitlines()
                assert 1 <= place["row"] <= len(lines)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SOUND],
)
def test_nothing_is_said_against_sound_ones(name: str, tmp_path: Path, cache: Path) -> None:
    facts = SOUND[name].facts(tmp_path, cache)
    found = [one for one in [*facts.sets.findings(), *lint(facts)] if one.severity != "note"]
    assert not found, told(found)
