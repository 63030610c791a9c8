r"""Whether the final answer is the reference's, as mathematics: 1/2 is 0.5 is \frac{1}{2}.

The final answer is, of what a text has, the last `\boxed{...}`; what follows the last `####` (as in
GSM8K); what follows the last "answer is" or "answer:"; the last formula between `$` or `\(`; the
whole text if it is one formula; or the last number. Numbers are compared here, to six decimals;
everything else by Hugging Face's math-verify, in a child process that is killed when it takes too
long or grows too large, so that it may be called from any thread.

Nothing is executed: formulas go through math-verify's LaTeX grammar. Its other way in, which hands
plain expressions to SymPy's `parse_expr` and so to `eval`, is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import regex

from lorakit.errors import InputError, RunError
from lorakit.tasks import ScoringOptions
from lorakit.tasks._math_process import math_process

NAME = "math"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = True
SUMMARY = "share of answers whose final answer equals the reference's as mathematics"

MAX_CHARACTERS = 400  # of a final answer; none that a person writes is longer
MAX_SEARCHED = 20_000  # characters at the end of a text, where the final answer stands
DECIMALS = 6

_NUMBER = r"[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s*/\s*\d+)?"
NUMBER = regex.compile(rf"(?<![\w.]){_NUMBER}(?![\w]|\.\d)|(?<![\w.]){_NUMBER}", regex.ASCII)
PLAIN = regex.compile(r"([-+]?)(\d+(?:\.\d+)?|\.\d+)(?:/(\d+(?:\.\d+)?))?", regex.ASCII)
BOXED = regex.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
BRACE = regex.compile(r"[{}]")
HASHES = regex.compile(r"####[ \t]*([^\n]+)")
SAID = regex.compile(r"(?im)(?:\banswer\s*(?:is|:|=)|^A:)[ \t]*:?[ \t]*([^\n]+)")
# A dollar sign is a mark and no money where Pandoc takes it for one: nothing blank inside of it, no
# digit after the second. A formula does not end in an operator either.
FORMULA = regex.compile(
    r"(?s)\$\$(.+?)\$\$"
    r"|(?<!\\)\\\[((?:(?!(?<!\\)\\\[).)+?)\\\]|(?<!\\)\\\(((?:(?!(?<!\\)\\\().)+?)\\\)"
    r"|(?<!\\)\$(?!\s)([^$\n]*?[^$\n\s\\+\-*/=])\$(?!\d)"
)
LABEL = regex.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}")
WORD = regex.compile(r"(?<![\\\p{L}])\p{L}{3,}")  # a LaTeX command is none
UNITS_BEFORE = regex.compile(r"\A[\s$\u20ac\u00a3*]+")
UNITS_AFTER = regex.compile(r"(?<![\s$\u20ac\u00a3*.,;:!?])[\s$\u20ac\u00a3*.,;:!?]+\Z")

log = logging.getLogger(__name__)


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: the process that compares formulas is needed."""
    try:
        math_process().equal("x", "x")
    except RunError as error:
        raise InputError(f"metric math: {error}") from error


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1. What cannot be compared in time is 0 and told."""
    found = [
        _equal(answer, reference) for answer, reference in zip(answers, references, strict=True)
    ]
    stopped = sum(one is None for one in found)
    if stopped:
        log.warning(
            "math: %d of %d comparisons took too much time or memory and count as wrong",
            stopped,
            len(found),
        )
    empty = sum(final_answer(reference) is None for reference in references)
    if empty:
        log.warning(
            "math: %d of %d references hold neither a formula nor a number, so nothing is right "
            "for them",
            empty,
            len(found),
        )
    return np.array([one is True for one in found], np.float64)


def final_answer(text: str) -> str | None:
    """What a text comes to, as it is written there; None if it holds no mathematics."""
    text = text[-MAX_SEARCHED:]
    boxed = _last_boxed(text)
    if boxed is not None:
        return _trimmed(boxed)
    for pattern in (HASHES, SAID):
        said = pattern.findall(text)
        if said:
            return _formula_in(said[-1]) or _number_in(said[-1], first=True) or _number_in(text)
    return _formula_in(text) or _number_in(text)


def _last_boxed(text: str) -> str | None:
    """What stands in the braces of the last `\\boxed` that is closed and in no other one."""
    opened: list[int] = []
    closes: dict[int, int] = {}
    for match in BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            closes[opened.pop()] = match.start()
    found, end = None, 0
    for match in BOXED.finditer(text):
        close = closes.get(match.end())
        if match.start() >= end and close is not None:
            found, end = text[match.end() + 1 : close], close
    return found


def _formula_in(text: str) -> str | None:
    """The last formula between marks, or the text itself if it is nothing but one."""
    marked = [next(part for part in parts if part) for parts in FORMULA.findall(text)]
    # Between the signs of two amounts of money stand words.
    formulas = [part for part in marked if not WORD.search(LABEL.sub("", part))]
    if formulas:
        return _trimmed(formulas[-1])
    bare = _trimmed(text)
    if bare is None or "\n" in bare or WORD.search(bare):
        return None
    return bare if any(sign in bare for sign in "0123456789\\") else None


def _number_in(text: str, *, first: bool = False) -> str | None:
    numbers = [match.group() for match in NUMBER.finditer(text)]
    return numbers[0 if first else -1] if numbers else None


def _trimmed(text: str) -> str | None:
    """Without white space, signs of money and full stops around it."""
    return UNITS_AFTER.sub("", UNITS_BEFORE.sub("", text)) or None


def same_answers(answers: Sequence[str]) -> list[int | None]:
    """See `lorakit.tasks.Voter`: equal are answers that are so as mathematics.

    Each is held against the first of every other one so far, so that what equals two that do not
    equal each other counts with the earlier. One that cannot be compared in time stands alone.
    """
    firsts: list[str | None] = []  # None: not to be compared with
    known: dict[str, int] = {}
    found: list[int | None] = []
    for final in map(final_answer, answers):
        if final is not None and final not in known:
            known[final] = _place(final, firsts)
        found.append(None if final is None else known[final])
    return found


def _place(final: str, firsts: list[str | None]) -> int:
    """Which of the first answers this one equals; it is added where it equals none."""
    # Found out once, or every other answer would take as long against it.
    alone = _same(final, "0") is None
    for place, other in enumerate(firsts):
        if not alone and other is not None and _same(final, other):
            return place
    firsts.append(None if alone else final)
    return len(firsts) - 1


def _equal(answer: str, reference: str) -> bool | None:
    """Whether the final answers are equal; None if that took too long."""
    given, wanted = final_answer(answer), final_answer(reference)
    if given is None or wanted is None:
        return False
    return _same(given, wanted)


def _same(given: str, wanted: str) -> bool | None:
    """Whether two final answers are equal; None if that took too long."""
    numbers = number(given), number(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return bool(round(numbers[0], DECIMALS) == round(numbers[1], DECIMALS))
    if "".join(given.split()) == "".join(wanted.split()):
        return True
    if max(len(given), len(wanted)) > MAX_CHARACTERS:
        return False
    return math_process().equal(given, wanted)


def number(text: str) -> Fraction | None:
    """A plain number or fraction of numbers, thousands marked or not; None for all else."""
    bare = text.replace(",", "").replace("\u2212", "-").replace(" ", "")
    match = PLAIN.fullmatch(bare) if len(bare) <= MAX_CHARACTERS else None
    if match is None or (match[3] is not None and not Decimal(match[3])):
        return None
    value = Fraction(Decimal(match[2])) / Fraction(Decimal(match[3] or 1))
    return -value if match[1] == "-" else value
