"""How findings quote and list: the same in every run, and what a reader has to see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from lorakit.data.contract import Finding
from lorakit.lint.told import listed_kinds, where_they_differ

KINDS = ("JSON web token", "AWS access key", "private key", "Slack token", "npm token")


def test_kinds_of_equal_counts_are_in_the_order_of_their_names() -> None:
    counts = Counter(dict.fromkeys(reversed(KINDS), 2) | {"Slack token": 3})
    assert listed_kinds(counts, 3) == "Slack token, AWS access key, JSON web token"
    assert listed_kinds(counts).count(", ") == len(KINDS) - 1


def test_their_order_is_not_that_of_a_set() -> None:
    """Strings hash otherwise in every process."""
    code = (
        "from collections import Counter; from lorakit.lint.told import listed_kinds; "
        f"counts = Counter(); counts.update(set({KINDS!r})); print(listed_kinds(counts))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("Yes, it is.", "No, it is not.", "Yes, it is. / No, it is not."),
        (
            "For adults the usual dose of this tablet is 5 mg a day.",
            "For adults the usual dose of this tablet is 50 mg a day.",
            "…5 mg a day. / …50 mg a day.",
        ),
        ("Take it with\nsome water", "Take it with some  milk", "…water / …milk"),
        ("Give one tablet", "Give one tablet daily", "…tablet / …tablet daily"),
        ("Yes", "Yes and no", "Yes / Yes and no"),
        ("a" * 40 + "b" + "c" * 60, "a" * 40 + "d", "…" + "b" + "c" * 24 + " / …d"),
    ],
)
def test_two_texts_are_quoted_where_they_differ(one: str, other: str, shown: str) -> None:
    assert where_they_differ(one, other) == shown
    assert where_they_differ(other, one) == " / ".join(reversed(shown.split(" / ")))


@pytest.mark.parametrize(
    ("where", "places"),
    [
        ("", []),
        ("train.learning_rate", [{"key": "train.learning_rate"}]),
        ("grpo.rewards.0", [{"key": "grpo.rewards.0"}]),
        ("a.jsonl:7", [{"file": "a.jsonl", "row": 7}]),
        (
            "data/a, b.jsonl:1, C:\\c:2.csv:30 and 1,200 more",
            [{"file": "data/a, b.jsonl", "row": 1}, {"file": "C:\\c:2.csv", "row": 30}],
        ),
    ],
)
def test_where_is_told_to_programs_too(where: str, places: list[dict[str, object]]) -> None:
    told = Finding("few-rows", "note", "m", where).to_json()
    assert told["places"] == places and told["where"] == where
