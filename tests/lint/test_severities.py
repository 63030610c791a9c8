"""How bad a finding is where that depends on how much of it there is, or on what it decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorakit.lint import rules
from tests.lint.corpus.case import Case
from tests.lint.corpus.rows import answered, classified, sums
from tests.lint.corpus.twins import by_form, grouped, measured

RULES = {rule.ID: rule for rule in rules()}
NOT_MEASURED = dict.fromkeys(("in_domain", "out_of_domain", "retention"))
SQUEEZED = [
    {"text": f"### Instruction:\n{row['prompt']}\n### Response:\n{row['completion']}"}
    for row in answered(40)
]
CASES = {
    "labels, prompts trained": (
        "prompts-are-trained", "warning",
        Case(classified(60), sections={"data": {"trained": "all"}}, measured=False),
    ),
    "long answers, prompts trained": (
        "prompts-are-trained", "note",
        Case(answered(60), sections={"data": {"trained": "all"}}, measured=False),
    ),
    "150 rows, measured": ("few-rows", "note", measured(answered(210))),
    "150 rows, not measured": ("few-rows", "warning", Case(answered(150), measured=False)),
    "60 rows, measured": ("few-rows", "warning", measured(answered(120))),
    "texts": (
        "plain-text-on-instruct-base", "note",
        Case([{"text": row["completion"]} for row in answered(40)], measured=False),
    ),
    "instructions as texts": (
        "plain-text-on-instruct-base", "warning", Case(SQUEEZED, measured=False),
    ),
    "general answers longer, loss decides": (
        "reference-longer-than-generated", "note",
        Case(
            classified(40),
            sections={
                "evaluate": NOT_MEASURED
                | {
                    "retention": "builtin:retention",
                    "metrics": ["loss", "exact_match"],
                    "max_new_tokens": 8,
                }
            },
        ),
    ),
    "a pattern for anything, loss decides": (
        "scorer-accepts-anything", "note",
        measured(classified(80), metrics=["loss", "regex"], regex=r"\w*"),
    ),
    "a pattern for anything decides": (
        "scorer-accepts-anything", "warning", by_form("regex", classified(80), regex=r"\w*"),
    ),
    "more than is free": ("does-not-fit", "warning", Case(room=(0.5, 2), measured=False)),
    "a little more than there is": (
        "does-not-fit", "warning", Case(room=(0.95, 0.95), measured=False),
    ),
    "ids under a name that says nothing": (
        "group-on-both-sides", "note", measured(grouped(160, "x", 20)),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


# The changes that would make a run fit are planned one by one.
DEAR = {"more than is free"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] if one in DEAR else []) for one in CASES],
)
def test_it_is_as_bad_as_it_is(name: str, tmp_path: Path, cache: Path) -> None:
    rule, severity, case = CASES[name]
    found = list(RULES[rule].find(case.facts(tmp_path, cache)))
    assert [one.severity for one in found] == [severity]


@pytest.mark.parametrize(
    ("different", "copies", "effective"),
    [
        (89, 12, 100**2 / (88 + 144)),  # twelve copies of one row
        (700, 12, None),  # of so many rows they narrow nothing by a tenth
        (20, 2, None),  # one row twice is for the note of the contract
    ],
)
def test_copies_in_a_set_that_measures_are_told_by_what_they_do_to_intervals(
    different: int, copies: int, effective: float | None, tmp_path: Path, cache: Path
) -> None:
    held_out = answered(different, seed=9)
    case = Case(
        answered(60),
        sections={"evaluate": {"in_domain": "{test.jsonl}"}},
        sets={"test": held_out + held_out[:1] * (copies - 1)},
        measured=False,
    )
    found = list(RULES["exact-duplicates"].find(case.facts(tmp_path, cache)))
    if effective is None:
        assert not found
        return
    (told,) = found
    assert told.severity == "warning"
    num_rows = different + copies - 1
    assert told.message.startswith(f"in_domain: {copies - 1} of {num_rows} rows repeat")
    assert f"they count as {effective:.0f} different ones" in told.message
    # The interval of a mean over such rows is too narrow by as much as is said.
    values = np.random.default_rng(0).normal(size=(20_000, different))
    weights = np.r_[copies, np.ones(different - 1)]
    real = (values @ weights / num_rows).std()
    assumed = (1 / num_rows) ** 0.5
    assert f"{real / assumed:.1f} times too narrow" in told.message


def test_several_ways_to_one_final_answer_are_no_contradiction(tmp_path: Path, cache: Path) -> None:
    ways = ("2 + 5 = 7.\nA: 7", "5 + 2 = 7, so that:\nThe answer is 7.0.", "All of it.\n#### $7")
    rows = [
        {"prompt": f"{row['prompt']} How many?", "completion": way}
        for row in answered(40)
        for way in ways
    ]
    find = RULES["contradictory-answers"].find
    assert list(find(Case(rows, measured=False).facts(tmp_path, cache))) == []
    rows[-1] = rows[-1] | {"completion": "All of it.\n#### 8"}
    found = list(find(Case(rows, measured=False).facts(tmp_path, cache)))
    assert len(found) == 1 and "3 of 120 rows contradict" in found[0].message


@pytest.mark.parametrize(
    ("question", "finals", "contradicts"),
    [
        ("What share is left?", ("50%", "0.5"), False),
        ("What share is left?", ("50%", "50"), True),
        ("Write a word problem with its answer.", ("7", "10"), False),
    ],
)
def test_final_answers_of_one_question(
    question: str, finals: tuple[str, str], contradicts: bool, tmp_path: Path, cache: Path
) -> None:
    rows = [
        {
            "prompt": f"{row['prompt']} {question}"
            if contradicts
            else f"{question} {row['prompt']}",
            "completion": f"It is so and so, number {i}.\nA: {final}",
        }
        for row in answered(40)
        for i, final in enumerate(finals)
    ]
    found = list(
        RULES["contradictory-answers"].find(Case(rows, measured=False).facts(tmp_path, cache))
    )
    assert any("contradict" in one.message for one in found) == contradicts


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (r"(?s).*", "is found in any text"),
        (r"\S", "is found in any text"),
        (r"\A<answer>\d+</answer>\Z", None),  # no right answer has it, and a completion may
        (r"#### \d+\s*\Z", None),
        (r"(?s)\A(?!.*sorry)", None),
    ],
)
def test_a_reward_that_any_completion_has_is_told(
    pattern: str, told: str | None, tmp_path: Path, cache: Path
) -> None:
    rewards = ["math", {"name": "regex", "options": {"regex": pattern}}]
    sections = {"train": {"method": "grpo", "batch_size": 64}, "grpo": {"rewards": rewards}}
    case = Case(sums(40), sections=sections, measured=False)
    found = list(RULES["scorer-accepts-anything"].find(case.facts(tmp_path, cache)))
    assert [(one.severity, one.where) for one in found] == (
        [("warning", "grpo.rewards.1")] if told else []
    )
    assert told is None or told in found[0].message
