r"""Whether the final answer is the reference's, as mathematics: 1/2 is 0.5 is \frac{1}{2}.

What is thought is no answer: what follows the last `</think>` counts, and of it what stands in the
last `<answer>`, if there is one; a text that does not stop thinking has none. There the final
answer is the first of these: the last `\boxed{...}`; what follows the last `####` (as in GSM8K);
what follows the last "answer is" or "answer:"; the last formula between `$` or `\(`; the whole text
if it is one formula; or the last number. Numbers are compared here, to six decimals; everything
else by Hugging Face's math-verify, in a child process that is killed when it takes too long or
grows too large, so that it may be called from any thread.

Where one is a number, the other has to be worked out: 37*43 repeats the question that it should
answer. (Fractions and roots are taken for what they are worth: 14/2 is 7.)

Nothing is executed: formulas go through math-verify's LaTeX grammar. Its other way in, which hands
plain expressions to SymPy's `parse_expr` and so to `eval`, is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import regex

from lorakit.errors import InputError, RunError
from lorakit.tasks import ScoringOptions, of_different
from lorakit.tasks._processes import math_process

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
# Commas and blanks in a number stand before three digits: 1,2 are two numbers, and no 12.
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_POSITIVE = rf"{_WHOLE}(?:\.\d+)?|\.\d+"
PLAIN = regex.compile(rf"([-+]?) ?({_POSITIVE})(?: ?/ ?({_POSITIVE}))?", regex.ASCII)
MIXED = regex.compile(r"([-+]?) ?(\d+) (\d+ ?/ ?\d+)", regex.ASCII)  # 3 1/2
THOUSANDS = regex.compile("[, ]")
BLANKS = regex.compile(r"(?<![\d\s])\s+|\s++(?!\d)")  # all but those between two digits
BOXED = regex.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
BRACE = regex.compile(r"[{}]")
# Looked ahead to, because a line may say it several times.
HASHES = regex.compile(r"####[ \t]*(?=([^\n]+))")
SAID = regex.compile(r"(?im)(?:\banswer\s*(?:is|:|=)|^A:)[ \t]*:?[ \t]*(?=([^\n]+))")
# A dollar sign is a mark and no money where Pandoc takes it for one: nothing blank inside of it, no
# digit after the second. A formula does not end in an operator either.
FORMULA = regex.compile(
    r"(?s)\$\$(.+?)\$\$"
    r"|(?<!\\)\\\[((?:(?!(?<!\\)\\\[).)+?)\\\]|(?<!\\)\\\(((?:(?!(?<!\\)\\\().)+?)\\\)"
    r"|(?<!\\)\$(?!\s)([^$\n]*?[^$\n\s\\+\-*/=])\$(?!\d)"
)
LABEL = regex.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}")
# Prose; a LaTeX command is none. Words of two letters are it where two stand together: it is 7.
WORD = regex.compile(r"(?<![\\\p{L}])(?:\p{L}{3,}|\p{L}{2}\s+\p{L}{2,})")
# What repeats a question instead of answering it: 37*43, 2^{10}, \binom{5}{2}, (3)(4), and no
# number times a power of ten.
POWER_OF_TEN = regex.compile(
    r"(?:(?:\\times|\\cdot|[*\u00d7\u00b7])\s*)?(?<!\d)10\s*\^\s*\{?\s*[-+]?\d+\s*\}?"
)
_OPERATOR = r"(?:[-+*\u2212\u00d7\u00b7\u00f7^]|\\times|\\cdot|\\div)"
TO_BE_WORKED_OUT = regex.compile(
    rf"[\d)}}]\s*{_OPERATOR}\s*[({{]*\s*\d|\d\s*\)\s*\(\s*\d|\d\s*!"
    r"|\\(?:d?binom|sum|prod|int|lim|gcd|lcm|log|ln|exp|sin|cos|tan|max|min|det|[bp]?mod)(?![a-zA-Z])"
)
UNITS_BEFORE = regex.compile(r"\A[\s$\u20ac\u00a3*]+")
UNITS_AFTER = regex.compile(r"(?<![\s$\u20ac\u00a3*.,;:!?])[\s$\u20ac\u00a3*.,;:!?]+\Z")

log = logging.getLogger(__name__)


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: the process that compares formulas is needed."""
    try:
        math_process().ask("x", "x")
    except RunError as error:
        raise InputError(f"metric math: {error}") from error


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1. What cannot be compared in time is 0 and told."""
    wanted = [final_answer(reference) for reference in references]
    pairs = list(zip(map(final_answer, answers), wanted, strict=True))
    compared = of_different(pairs, lambda pair: _equal(*pair), options)
    found = [compared[pair] for pair in pairs]
    stopped = sum(one is None for one in found)
    if stopped:
        log.warning(
            "%s: %d of %d comparisons took too much time or memory and count as wrong",
            options.titled(NAME),
            stopped,
            len(found),
        )
    empty = wanted.count(None)
    if empty and not options.knows_references:
        log.warning(
            "%s: %d of %d references hold neither a formula nor a number, so nothing is right "
            "for them",
            options.titled(NAME),
            empty,
            len(found),
        )
    return np.array([one is True for one in found], np.float64)


def final_answer(text: str) -> str | None:
    """What a text comes to, as it is written there; None if it holds no mathematics."""
    text = _answered(text)[-MAX_SEARCHED:]
    boxed = _last_boxed(text)
    if boxed is not None:
        return _trimmed(boxed)
    for pattern in (HASHES, SAID):
        said = pattern.findall(text)
        if said:
            return _formula_in(said[-1]) or _number_in(said[-1], first=True) or _number_in(text)
    return _formula_in(text) or _number_in(text)


def _answered(text: str) -> str:
    """What a text says once it has thought, or inside of its last answer tags.

    An answer tag that is not closed counts: a stop string may have cut its end off.
    """
    said = text.rpartition("</think>")[2]
    if "<think>" in said:
        return ""
    before, closed, _ = said.rpartition("</answer>")
    return (before if closed else said).rpartition("<answer>")[2]


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
    alone = _same(final, "x") is None
    for place, other in enumerate(firsts):
        if not alone and other is not None and _same(final, other):
            return place
    firsts.append(None if alone else final)
    return len(firsts) - 1


def _equal(given: str | None, wanted: str | None) -> bool | None:
    """Whether the final answers are equal; None if that took too long."""
    if given is None or wanted is None:
        return False
    return _same(given, wanted)


def _same(given: str, wanted: str) -> bool | None:
    """Whether two final answers are equal; None if that took too long."""
    numbers = number(given), number(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return bool(round(numbers[0], DECIMALS) == round(numbers[1], DECIMALS))
    if (numbers[0] is None) != (numbers[1] is None):
        other = given if numbers[0] is None else wanted
        if TO_BE_WORKED_OUT.search(POWER_OF_TEN.sub("", other.rpartition("=")[2])):
            return False
    if BLANKS.sub("", given) == BLANKS.sub("", wanted):
        return True
    if max(len(given), len(wanted)) > MAX_CHARACTERS:
        return False
    equal: bool | None = math_process().ask(given, wanted)
    return equal


def number(text: str) -> Fraction | None:
    """A plain number, fraction of numbers or mixed number, thousands marked or not; None for all
    else."""
    if len(text) > MAX_CHARACTERS:
        return None
    bare = text.strip().replace("\u2212", "-")
    mixed = MIXED.fullmatch(bare)
    if mixed is not None and (part := number(mixed[3])) is not None and part < 1:
        value = int(mixed[2]) + part
        return -value if mixed[1] == "-" else value
    match = PLAIN.fullmatch(bare)
    if match is None:
        return None
    above, below = (Fraction(THOUSANDS.sub("", one)) for one in (match[2], match[3] or "1"))
    if not below:
        return None
    return -above / below if match[1] == "-" else above / below
