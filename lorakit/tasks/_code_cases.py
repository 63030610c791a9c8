"""The cases that code has to get right, and whether what it made of them is right.

Only this side knows the expected values; they are compared as data, type by type.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from lorakit.jail.jail import FUNCTION, Jail, Outcome

KEYS = {"function", "cases", "tolerance"}
MAX_DEPTH = 64
MIN_PROGRAM_SECONDS, SECONDS_PER_CASE = 60.0, 1.0


@dataclass(frozen=True)
class Cases:
    """What a reference says.

    Attributes:
        function: that is called; None: the code is a program.
        given: of each case the arguments, or the standard input.
        expected: of each case the value, or the standard output.
        tolerance: of numbers, relative and (below 1) absolute; None: they are the same or wrong.
    """

    function: str | None
    given: tuple[Any, ...]
    expected: tuple[Any, ...]
    tolerance: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether all cases are right, and the first reason why not, fit for a terminal."""

    right: bool
    why: str = ""


def read_cases(reference: str) -> Cases:
    """The cases of a reference: {"function": "name", "cases": [[arguments, value], ...]}, or for
    programs {"cases": [[input, output], ...]}; `tolerance` may stand beside.

    Raises:
        ValueError: it is something else; in words.
    """
    try:
        stated = json.loads(reference, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(stated, dict) or not stated.keys() <= KEYS or not stated.get("cases"):
        raise ValueError(f"it is no object with cases and nothing but {', '.join(sorted(KEYS))}")
    function, cases = stated.get("function"), stated["cases"]
    tolerance = stated.get("tolerance")
    if function is not None and (type(function) is not str or not FUNCTION.fullmatch(function)):
        raise ValueError("its function is no name")
    if tolerance is not None and not (_is_number(tolerance) and 0 <= tolerance < 1):
        raise ValueError("its tolerance is no number from 0 to 1")
    if not isinstance(cases, list) or not all(_is_case(case, function) for case in cases):
        kind = "a list of arguments and a value" if function else "an input and an output, as texts"
        raise ValueError(f"its cases are no list of pairs of {kind}")
    given, expected = zip(*cases, strict=True)
    if _depth(stated) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    return Cases(function, given, expected, tolerance)


def judge(
    code: str,
    cases: Cases,
    jail: Jail,
    *,
    seconds: float | None = None,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> Verdict:
    """Run the code on the cases, programs up to the first that is wrong.

    Args:
        seconds: wall time after which a program is not run on further cases, and is wrong; None:
            `program_seconds` of so many. The calls of a function share the jail's own limit.
        stop_if_asked: called before each run; what it raises ends it.

    Raises:
        RunError: the jail could not be built.
    """
    stop_if_asked()
    if cases.function is not None:
        outcomes: Iterable[Outcome] = jail.call(code, cases.function, cases.given)
        verdicts = map(_judged_value, outcomes, cases.expected, _repeated(cases))
    else:
        limit = program_seconds(len(cases.given)) if seconds is None else seconds
        outcomes = _runs(code, cases, jail, limit, stop_if_asked)
        verdicts = map(_judged_text, outcomes, cases.expected, _repeated(cases))
    for number, why in enumerate(verdicts, start=1):
        if why:
            return Verdict(False, f"case {number} of {len(cases.given)}: {why}")
    return Verdict(True)


def program_seconds(num_cases: int) -> float:
    """What a program may take of the wall clock for all of its cases.

    An honest one takes hundredths of a second for each. One that sleeps through nearly all of its
    limit and is then right would hold a step up by ten seconds a case, and be rewarded for it.
    """
    return max(MIN_PROGRAM_SECONDS, SECONDS_PER_CASE * num_cases)


def _runs(
    code: str, cases: Cases, jail: Jail, seconds: float, stop_if_asked: Callable[[], None]
) -> Iterator[Outcome]:
    deadline = time.monotonic() + seconds
    for given in cases.given:
        if time.monotonic() >= deadline:
            yield Outcome(fault=f"not run: those before it took more than {seconds:g} s")
            return
        stop_if_asked()
        yield jail.run(code, given)


def same(value: Any, expected: Any, tolerance: float | None) -> bool:
    """Whether two values of JSON are the same: 1 is neither 1.0 nor true.

    With a tolerance, whole and other numbers are compared as numbers; true and false never are.
    """
    pairs = [(value, expected)]
    while pairs:
        one, other = pairs.pop()
        if tolerance is not None and _is_number(one) and _is_number(other):
            if not _close(one, other, tolerance):
                return False
        elif type(one) is not type(other):
            return False
        elif isinstance(one, list):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(one, dict):
            if one.keys() != other.keys():
                return False
            pairs += [(one[key], other[key]) for key in one]
        elif one != other:
            return False
    return True


def same_text(text: str, expected: str, tolerance: float | None) -> bool:
    """Whether two outputs are the same but for blanks at the ends of lines and lines at the end.

    With a tolerance they are compared word by word, and words that are numbers as numbers.
    """
    if tolerance is None:
        return _lines(text) == _lines(expected)
    words, others = text.split(), expected.split()
    return len(words) == len(others) and all(
        one == other or _close_words(one, other, tolerance)
        for one, other in zip(words, others, strict=True)
    )


def _judged_value(outcome: Outcome, expected: Any, tolerance: float | None) -> str:
    if outcome.fault is not None:
        return outcome.fault
    return "" if same(outcome.value, expected, tolerance) else "another value"


def _judged_text(outcome: Outcome, expected: str, tolerance: float | None) -> str:
    if outcome.fault is not None:
        return outcome.fault
    return "" if same_text(outcome.value, expected, tolerance) else "another output"


def _repeated(cases: Cases) -> list[float | None]:
    return [cases.tolerance] * len(cases.given)


def _is_case(case: Any, function: str | None) -> bool:
    if not isinstance(case, list) or len(case) != 2:
        return False
    return isinstance(case[0], list) if function else all(isinstance(one, str) for one in case)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _close(one: float, other: float, tolerance: float) -> bool:
    try:
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats
        return one == other


def _close_words(one: str, other: str, tolerance: float) -> bool:
    try:
        return _close(float(one), float(other), tolerance)
    except ValueError:
        return False


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        lists = [one.values() if isinstance(one, dict) else one for one in level if _holds(one)]
        level = [one for several in lists for one in several]
    return depth


def _holds(value: Any) -> bool:
    return isinstance(value, (list, dict))


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"{number[:40]} is no number that JSON and Python share")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)
