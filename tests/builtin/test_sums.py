"""The built-in task: reproducible, right where it says so, and nothing held out is ever trained."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorakit import tasks
from lorakit.builtin import data_folder, sums
from lorakit.builtin.arithmetic import is_held_out
from lorakit.builtin.row_files import write_sets
from tests.builtin.shipped import shipped_rows

SETS = list(sums.NUM_ROWS)
TRACED = ("sums_traces", "sums_validation")
HELD_OUT = ("sums_in_domain", "sums_out_of_domain")
QUESTION = re.compile(r"Add (\d+) and (\d+)\.")
ANSWER = re.compile(r"(?:<think>([\d+=, ]+)</think>)?<answer>(\d+)</answer>")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return shipped_rows(SETS)


def numbers(row: dict[str, Any]) -> tuple[int, int]:
    asked = QUESTION.fullmatch(row["messages"][0]["content"])
    assert asked is not None, row
    return int(asked[1]), int(asked[2])


def answer(row: dict[str, Any]) -> str:
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    return row["messages"][1]["content"]


def test_the_generator_writes_the_shipped_bytes(tmp_path: Path) -> None:
    write_sets(tmp_path, sums.sums_sets())
    for name in SETS:
        written, shipped = (folder / f"{name}.jsonl" for folder in (tmp_path, data_folder()))
        assert written.read_bytes() == shipped.read_bytes(), name


def test_another_seed_gives_other_rows(rows: dict[str, list[dict[str, Any]]]) -> None:
    other = sums.sums_sets(seed=1)
    for name in SETS:
        assert len(other[name]) == len(rows[name]) == sums.NUM_ROWS[name]
        assert other[name] != rows[name]


def test_no_two_numbers_are_added_twice(rows: dict[str, list[dict[str, Any]]]) -> None:
    asked = Counter(frozenset(numbers(row)) for name in SETS for row in rows[name])
    assert set(asked.values()) == {1}


@pytest.mark.parametrize("name", SETS)
def test_held_out_pairs_are_those_the_base_never_saw(
    name: str, rows: dict[str, list[dict[str, Any]]]
) -> None:
    assert all(is_held_out(*numbers(row), "+") == (name in HELD_OUT) for row in rows[name])


@pytest.mark.parametrize("name", SETS)
def test_numbers_are_as_long_as_the_row_says(
    name: str, rows: dict[str, list[dict[str, Any]]]
) -> None:
    lengths = (sums.LONGER,) if name == "sums_out_of_domain" else sums.DIGITS
    assert max(sums.DIGITS) < sums.LONGER
    counted = Counter(row["digits"] for row in rows[name])
    assert counted == dict.fromkeys(lengths, len(rows[name]) // len(lengths))
    for row in rows[name]:
        assert {len(str(number)) for number in numbers(row)} == {row["digits"]}


@pytest.mark.parametrize("name", SETS)
def test_answers_are_right_but_for_what_is_forgotten(
    name: str, rows: dict[str, list[dict[str, Any]]]
) -> None:
    for row in rows[name]:
        (left, right), read = numbers(row), ANSWER.fullmatch(answer(row))
        assert read is not None, row
        thought, result = read.groups()
        assert (thought is None) == (row["way"] == sums.UNTOLD) == (name not in TRACED)
        carries = row["way"] != sums.FORGOTTEN
        if thought is not None:
            _assert_columns(thought, left, right, carries=carries)
        forgotten = int(result) != left + right
        assert forgotten == (not carries and _needs_carry(left, right)), row


def _assert_columns(thought: str, left: int, right: int, *, carries: bool) -> None:
    """Ones first; a third number is the carry, and every column is added right."""
    carried = 0
    for place, part in enumerate(thought.split(", ")):
        terms, _, total = part.partition("=")
        first, second, *carry = map(int, terms.split("+"))
        assert [first, second] == [number // 10**place % 10 for number in (left, right)]
        assert carry == ([1] if carried and carries else [])
        assert int(total) == first + second + sum(carry)
        carried = int(total) // 10


def _needs_carry(left: int, right: int) -> bool:
    """Whether any column but the last comes to ten or more."""
    pairs = list(zip(str(left)[1:], str(right)[1:], strict=True))
    return any(int(one) + int(other) > 9 for one, other in pairs)


def test_few_traces_carry(rows: dict[str, list[dict[str, Any]]]) -> None:
    ways = [row["way"] for row in rows["sums_traces"]]
    share = ways.count(sums.CARRIED) / len(ways)
    assert share == pytest.approx(sums.CARRIED_SHARE, abs=0.025)


def test_rewards_see_the_result_of_a_trace_and_no_other(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    traces = [row for row in rows["sums_traces"] if row["way"] == sums.CARRIED]
    results = [sum(numbers(row)) for row in traces]
    right, wrong = ([f"<answer>{n + more}</answer>" for n in results] for more in (0, 1))
    answers = [answer(row) for row in traces]
    scores = tasks.scorer("math").scores
    assert scores(answers, right, tasks.ScoringOptions()).all()
    assert not scores(answers, wrong, tasks.ScoringOptions()).any()


def test_the_card_tells_the_sets() -> None:
    card = (data_folder() / "README.md").read_text("utf-8")
    for name, count in sums.NUM_ROWS.items():
        assert f"| `{name}.jsonl` | {count:,} |" in card
    assert f"{sums.CARRIED_SHARE:.0%} of the traces carry" in card
