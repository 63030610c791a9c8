"""The built-in task: reproducible, right in every line, and nothing held out is ever trained."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorakit import tasks
from lorakit.builtin import data_folder, sums
from lorakit.builtin.arithmetic import is_held_out
from lorakit.builtin.row_files import write_sets

SETS = list(sums.NUM_ROWS)
TRACED = ("sums_traces", "sums_validation")
HELD_OUT = ("sums_in_domain", "sums_out_of_domain")
QUESTION = re.compile(r"Add (\d+) and (\d+)\.")
ANSWER = re.compile(r"(?:<think>([\d+=, ]+)</think>)?<answer>(\d+)</answer>")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            json.loads(line)
            for line in (data_folder() / f"{name}.jsonl").read_text("utf-8").splitlines()
        ]
        for name in SETS
    }


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
    lengths = {sums.LONGER} if name == "sums_out_of_domain" else set(sums.COLUMNS_SHARE)
    assert max(sums.COLUMNS_SHARE) < sums.LONGER
    counted = Counter(row["digits"] for row in rows[name])
    assert counted == dict.fromkeys(lengths, len(rows[name]) // len(lengths))
    for row in rows[name]:
        assert {len(str(number)) for number in numbers(row)} == {row["digits"]}


@pytest.mark.parametrize("name", SETS)
def test_every_answer_is_right_in_every_part(
    name: str, rows: dict[str, list[dict[str, Any]]]
) -> None:
    for row in rows[name]:
        (left, right), read = numbers(row), ANSWER.fullmatch(answer(row))
        assert read is not None, row
        thought, result = read.groups()
        assert int(result) == left + right
        if row["way"] == sums.UNTOLD:
            assert thought is None and name not in TRACED
        elif row["way"] == sums.AT_ONCE:
            assert thought == f"{left}+{right}={result}"
        else:
            assert row["way"] == sums.COLUMNS and name in TRACED
            _assert_columns(thought, left, right)


def _assert_columns(thought: str, left: int, right: int) -> None:
    """Read as it was meant: ones first, a third number being the carry."""
    carried, total = 0, 0
    for place, part in enumerate(thought.split(", ")):
        terms, _, sum_of_them = part.partition("=")
        first, second, *carry = map(int, terms.split("+"))
        assert [first, second] == [number // 10**place % 10 for number in (left, right)]
        assert carry == ([1] if carried else [])
        assert int(sum_of_them) == first + second + sum(carry)
        carried = int(sum_of_them) // 10
        total += int(sum_of_them) % 10 * 10**place
    assert total + carried * 10 ** (place + 1) == left + right


def test_long_sums_are_written_at_once_more_often(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    for digits, share in sums.COLUMNS_SHARE.items():
        ways = [row["way"] for row in rows["sums_traces"] if row["digits"] == digits]
        assert ways.count(sums.COLUMNS) / len(ways) == pytest.approx(share, abs=0.03)
    assert sums.COLUMNS_SHARE[2] > 0.5 > sums.COLUMNS_SHARE[3]


def test_rewards_see_the_result_of_a_trace_and_no_other(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    traces = rows["sums_validation"]
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
    for share in sums.COLUMNS_SHARE.values():
        assert f"{10 * share:g} in 10" in card
