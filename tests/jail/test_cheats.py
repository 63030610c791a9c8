"""Only right outputs are rewarded, whatever the code says of itself."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from lorakit import tasks
from lorakit.jail.jail import Jail
from lorakit.tasks import ScoringOptions
from lorakit.tasks._code_cases import Cases, Verdict, judge
from tests.jail import cheats

# Not in the default run before it is known that every machine of it can build the jail.
pytestmark = pytest.mark.slow

NUMBERS = (0, 3, 14)


def unguessable() -> Cases:
    """One for 0, so that guesses of it get as far as the next case; random numbers for others."""
    values = [1, *(10**17 + secrets.randbelow(10**17) for _ in NUMBERS[1:])]
    return Cases("solve", tuple([n] for n in NUMBERS), tuple(values), None)


def tripled(function: str | None) -> Cases:
    if function is None:
        given, expected = [f"{n}\n" for n in NUMBERS], [f"{n * 3}\n" for n in NUMBERS]
        return Cases(None, tuple(given), tuple(expected), None)
    return Cases(function, tuple([n] for n in NUMBERS), tuple(n * 3 for n in NUMBERS), None)


def judged(codes: dict[str, str], cases: Callable[[], Cases], jail: Jail) -> dict[str, Verdict]:
    with ThreadPoolExecutor(2) as threads:
        verdicts = threads.map(lambda code: judge(code, cases(), jail), codes.values())
        return dict(zip(codes, verdicts, strict=True))


def test_no_cheat_is_rewarded(patient: Jail, strict: Jail) -> None:
    found = judged(cheats.FUNCTIONS, unguessable, patient)
    found |= judged(cheats.PROGRAMS, lambda: tripled(None), patient)
    found |= judged(cheats.TOO_SLOW, lambda: tripled(None), strict)
    assert len(found) >= 60
    assert {name: verdict for name, verdict in found.items() if verdict.right} == {}
    assert all(verdict.why.startswith("case ") for verdict in found.values())
    assert all(verdict.why.isprintable() for verdict in found.values())


def test_a_program_that_takes_its_time_at_each_case_is_not_run_on_all(patient: Jail) -> None:
    slow = "import time\nn = int(input())\ntime.sleep(0.7)\nprint(n * 3)"
    assert judge(slow, tripled(None), patient, seconds=60.0) == Verdict(True)
    verdict = judge(slow, tripled(None), patient, seconds=1.0)
    assert verdict == Verdict(False, "case 3 of 3: not run: those before it took more than 1 s")


@pytest.mark.parametrize("name", ["frames", "everything alive", "environment", "memory"])
def test_the_searches_would_find_what_they_look_for(patient: Jail, name: str) -> None:
    planted = 10**17 + 7
    plants = {
        "frames": f"import __main__; __main__.expected = {planted}",
        "everything alive": f"class Kept: expected = {planted}",
        "environment": f"import os; os.environ['EXPECTED'] = '{planted}'",
        "memory": f"import __main__; __main__.expected = '{planted}'.encode()",
    }
    code = f"{cheats.FUNCTIONS[name]}\n{plants[name]}"
    assert patient.call(code, "solve", [[0]])[0].value == planted


def test_honest_code_is_rewarded(patient: Jail) -> None:
    for name, (function, code) in cheats.HONEST_FUNCTIONS.items():
        assert judge(code, tripled(function), patient) == Verdict(True), name
    found = judged(cheats.HONEST_PROGRAMS, lambda: tripled(None), patient)
    assert found == dict.fromkeys(cheats.HONEST_PROGRAMS, Verdict(True))


@pytest.mark.parametrize(
    ("returned", "expected", "right"),
    [
        ("1", 1, True),
        ("1", 1.0, False),
        ("1.0", 1, False),
        ("True", 1, False),
        ("1", True, False),
        ("0", False, False),
        ("None", None, True),
        ("''", None, False),
        ("0.1 + 0.2", 0.3, False),
        ("10**40", 10**40, True),
        ("'\\u00e9\\u6f22\\x00\\n\"\\\\'", '\u00e9\u6f22\x00\n"\\', True),
        ("'\\ud800'", "?", False),
        ("[1, (2, [3])]", [1, [2, [3]]], True),
        ("[1, 2]", [2, 1], False),
        ("[1]", [1, 1], False),
        ("[[1], [True]]", [[1], [1]], False),
        ("{'a': 1, 'b': [2]}", {"b": [2], "a": 1}, True),
        ("{'a': 1}", {"a": 1, "b": 2}, False),
        ("{1: 1}", {"1": 1}, False),
        ("__import__('collections').Counter('aab')", {"a": 2, "b": 1}, True),
        ("__import__('collections').OrderedDict(a=1)", {"a": 1}, True),
        ("__import__('collections').namedtuple('P', 'x y')(1, 2)", [1, 2], True),
        ("{1, 2}", [1, 2], False),
        ("b'a'", "a", False),
        ("__import__('enum').IntEnum('E', 'a').a", 1, False),
        ("type('N', (int,), {'__repr__': lambda self: '1'})(5)", 1, False),
        ("10**5000", 1, False),
    ],
)
def test_values_are_compared_type_by_type(
    patient: Jail, returned: str, expected: Any, right: bool
) -> None:
    cases = Cases("f", ((),), (expected,), None)
    assert judge(f"def f(): return {returned}", cases, patient).right is right


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"nonce":"0","value":1}', "something that was not asked"),
        ('{"value":1}', "something that was not asked"),
        ('{"nonce":"%s"}', "something that was not asked"),
        ('{"nonce":"%s","value":1,"right":true}', "something that was not asked"),
        ('{"nonce":"%s","error":1}', "something that was not asked"),
        ('["%s", 1]', "something that was not asked"),
        ('{"nonce":"%s","value":5,"value":1}', "the key 'value' stands twice"),
        ('{"nonce":"%s","value":NaN}', "NaN is not JSON"),
        ('{"nonce":"%s","value":[Infinity]}', "Infinity is not JSON"),
        ("", "cannot be read"),
    ],
)
def test_an_answer_that_was_not_asked_for_is_none(patient: Jail, line: str, told: str) -> None:
    line = line.replace("%s", "' + told['nonce'] + '")
    code = (
        f"{cheats.ANSWERS}def solve(n):\n    told = frame_with('answers')\n"
        f"    os.write(told['answers'], ('{line}' + '\\n').encode())\n    return 1"
    )
    first, second = patient.call(code, "solve", [[0], [0]])
    assert first.value is None and told in str(first.fault)
    assert second.value is None and second.fault is not None


def test_the_scorer(caplog: pytest.LogCaptureFixture) -> None:
    reference = json.dumps({"function": "add", "cases": [[[1, 2], 3], [[0, 0], 0]]})
    program = json.dumps({"cases": [["1 2\n", "3\n"]]})
    right = "Here:\n```python\ndef add(a, b):\n    return a + b\n```"
    answers = [right, right.replace("+", "-"), "", "print(sum(map(int, input().split())))", right]
    references = [reference, reference, reference, program, "#### 3"]
    values = tasks.scorer("code").scores(answers, references, ScoringOptions())
    assert values.dtype == np.float64 and values.tolist() == [1, 0, 0, 1, 0]
    assert "1 of 5 references hold no cases" in caplog.text


def test_sets_come_in_the_same_order_in_every_run(patient: Jail) -> None:
    """A reward that depends on the order of a set is the same when the step is made again."""
    code = "def f(): return list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"
    found = Counter(str(patient.call(code, "f", [[]])[0].value) for _ in range(4))
    assert len(found) == 1
