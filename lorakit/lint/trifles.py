"""Whether two texts differ in trifles: what no reader would call another question or answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

NEGATIONS = frozenset(
    (  # noqa: SIM905
        "not no never without none nor cannot don doesn isn aren wasn kein nicht"
    ).split()
)
STOP_WORDS = frozenset(
    (  # noqa: SIM905
        "a an the is are was were be been am do does did of to in on at for and or so it its "
        "this that these those please could can would you me i my your s kindly just also there "
        "with by as"
    ).split()
)

# A sign between two operands on one line: numbers, single letters, brackets. A mark of a list has
# none before it, a hyphen has words on both sides, and those of a date are no sum.
_OPERATOR = re.compile(
    r"(?:\d|\b[^\W\d_]|[)\]])[ \t]*([<>=!]=?|\*\*|[-+*/^%])[ \t]*(?=[-+$€£]?\d|[^\W\d_]\b|[(\[])"
)
# A dash or slash between numbers or capitals without blanks is as often one of a span, a room or a
# choice (`9-5`, `3/B`, `A/D`): a sum where it is asked for, equals something, fills its line, or
# has another sign beside it.
_GLUED = re.compile(r"[\dA-Z][-/][\dA-Z]")
_ASKED = re.compile(
    r"(?:\b(?:is|are|does|of|calculate|compute|evaluate|solve|simplify|subtract|divide|out)|[=:])"
    r"[ \t]*[-$€£]?[\w.,]*$",
    re.IGNORECASE,
)
_EQUALS = re.compile(r"[\w.,]{0,20}[ \t]{0,3}=")
_OF_SUMS = re.compile(r"[+*^=()]")
_DATE = re.compile(r"\b\d{1,4}([-/])\d{1,2}\1\d{1,4}\b")
_TIMES = re.compile(r"(?<=\d)[ \t]*[xX×·][ \t]*(?=\d)")  # noqa: RUF001
_SPELLED = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})  # noqa: RUF001


def jaccard(one: Sequence[str], other: Sequence[str]) -> float:
    """The share of two lists' words that both have, in [0, 1]."""
    a, b = Counter(one), Counter(other)
    return sum((a & b).values()) / max(1, sum((a | b).values()))


def differ_in_trifles(
    one: Sequence[str], other: Sequence[str], *, substituted: float = 0.0
) -> bool:
    """Whether two texts say the same.

    Args:
        substituted: share of the words that may stand in place of another.
    """
    a, b = Counter(one), Counter(other)
    only_a, only_b = a - b, b - a
    for word in [*only_a, *only_b]:
        if word in NEGATIONS or word.isdecimal():
            return False
    left_a = [word for word in only_a.elements() if word not in STOP_WORDS]
    left_b = [word for word in only_b.elements() if word not in STOP_WORDS]
    length = min(len(one), len(other))
    if max(len(left_a), len(left_b)) > max(2, 0.3 * length):
        return False
    left_a, left_b = _without_typing_errors(left_a, left_b)
    swapped = min(len(left_a), len(left_b))
    added = max(len(left_a), len(left_b)) - swapped
    return swapped <= substituted * length and added <= 0.1 * length


def calculate_otherwise(one: str, other: str) -> bool:
    """Whether each of two texts has a sign between operands in place of one of the other's.

    A sign that only one of them has may be a dash: `5 - 10 mg` and `5 to 10 mg` are the same.
    """
    a, b = _operators(one), _operators(other)
    return bool(a - b) and bool(b - a)


def _operators(text: str) -> Counter[str]:
    plain = _TIMES.sub("*", _DATE.sub(" ", text)).translate(_SPELLED)
    signs = (found[1] for found in _OPERATOR.finditer(plain) if _calculates(plain, found.start(1)))
    return Counter(sign.replace("**", "^") for sign in signs)


def _calculates(text: str, at: int) -> bool:
    """Whether a sign that looks like an operator is surely one."""
    if not _GLUED.fullmatch(text, at - 1, at + 2):
        return True
    line_begin, line_end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    line = text[line_begin : None if line_end < 0 else line_end]
    before, after = line[: at - line_begin], line[at - line_begin + 1 :]
    beside = before.split(" ")[-1] + after.split(" ")[0]
    return bool(
        _ASKED.search(before[-40:])
        or _EQUALS.match(after)
        or _OF_SUMS.search(beside)
        or " " not in line.strip()
    )


def _without_typing_errors(one: Sequence[str], other: Sequence[str]) -> tuple[list[str], list[str]]:
    rest, left = list(other), []
    for word in one:
        match = next((w for w in rest if _is_typing_error(word, w)), None)
        if match is None:
            left.append(word)
        else:
            rest.remove(match)
    return left, rest


def _is_typing_error(one: str, other: str) -> bool:
    """Whether one edit, or two letters swapped, makes one word the other; not in short words."""
    if min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if start is None:
        return True
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
