"""What code is held to, read and compared outside of the jail: none of this needs one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lorakit.jail.jail import Outcome
from lorakit.jail.processors import available_processors
from lorakit.tasks import ScoringOptions, code
from lorakit.tasks._code_cases import program_seconds, read_cases, same, same_text
from lorakit.tasks.code import code_of


def test_all_cases_of_a_program_have_a_minute_or_a_second_each() -> None:
    assert program_seconds(3) == 60 and program_seconds(200) == 200


def test_numbers_within_a_tolerance_only_if_asked() -> None:
    assert same(0.1 + 0.2, 0.3, 1e-9) and not same(0.1 + 0.2, 0.3, None)
    assert same(1, 1.0, 0.0) and not same(True, 1, 0.5) and not same(1, True, 0.5)
    assert same([{"a": 1.0000001}], [{"a": 1}], 1e-6) and not same([1.1], [1], 1e-6)
    assert not same(10**400, 1.0, 1e-6) and same(10**400, 10**400, 1e-6)
    assert same_text("0.3000001 yes\n", "0.3 yes", 1e-6) and not same_text("0.4", "0.3", 1e-6)
    assert not same_text("nan", "1", 0.5) and not same_text("1 1", "1", 0.5)
    assert same_text("a  \nb\n\n", "a\nb", None) and not same_text("a b", "a  b", None)
    assert not same_text("\na", "a", None)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("", "Expecting value"),
        ("[]", "no object with cases"),
        ('{"cases": []}', "no object with cases"),
        (
            '{"cases": [[[1], 2]], "function": "f", "x": 1}',
            "nothing but cases, function, tolerance",
        ),
        ('{"cases": [[[1], 2]]}', "an input and an output, as texts"),
        ('{"cases": [["1", "2"]], "function": "f"}', "a list of arguments and a value"),
        ('{"cases": [[[1], 2, 3]], "function": "f"}', "a list of arguments and a value"),
        ('{"cases": [[[1], 2]], "function": "f()"}', "no name"),
        ('{"cases": [[[1], 2]], "function": "__import__(\'os\').x"}', "no name"),
        ('{"cases": [[[1], 2]], "function": "f", "tolerance": true}', "no number from 0 to 1"),
        ('{"cases": [[[1], NaN]], "function": "f"}', "NaN is no number"),
        ('{"cases": [[[1], 1e999]], "function": "f"}', "1e999 is no number"),
        ('{"cases": [[[], ' + "[" * 70 + "]" * 70 + ']], "function": "f"}', "deeper than 64"),
        ("[" * 100_000, "too deeply"),
    ],
)
def test_references_are_read_strictly(reference: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_cases(reference)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f(): pass", "def f(): pass"),
        ("So:\n```python\na = 1\n```\nDone.", "a = 1"),
        ("```\na = 1\n```\nand\n```py\nb = 2\n```", "b = 2"),
        ('```python\na = 1\n```\nIt prints\n```json\n{"a": 1}\n```', "a = 1"),
        ("```text\nx\n```\n```Python title=a\na = 1", "a = 1"),
        ("~~~python\na = 1\n```\n~~~", "a = 1\n```"),
        ("  ```python\n  a = 1\n  ```", "  a = 1"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_code_of_an_answer(answer: str, code: str) -> None:
    assert code_of(answer) == code


def test_between_two_runs_it_may_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Jailed:
        def run(self, source: str, given: str) -> Any:
            ran.append(given)
            return Outcome(value="1")

    def stop() -> None:
        if len(ran) >= 3:
            raise KeyError("enough")

    monkeypatch.setattr("lorakit.tasks.code.jail", Jailed)
    reference = json.dumps({"cases": [["", "1"]] * 50})
    answers = [f"print({n})" for n in range(20)]
    with pytest.raises(KeyError, match="enough"):
        code.scores(answers, [reference] * 20, ScoringOptions(stop_if_asked=stop))
    assert 3 <= len(ran) <= 3 + available_processors()
