"""Whether the code in an answer gives the right outputs: run on the reference's inputs, in a jail.

The code is the last fenced block that is Python or says nothing of its language, also one that was
not closed; without any, the whole answer. A reference is JSON:

    {"function": "add", "cases": [[[1, 2], 3], [[0, 0], 0]]}    add(1, 2) must return 3, ...
    {"cases": [["1 2", "3"], ["0 0", "0"]]}                     a program, its input and output

`function` may be `Class.method`. Values are compared as JSON, type by type (1 is not 1.0, and a
tuple is a list); `"tolerance": 1e-6` beside them compares numbers as numbers. Outputs are the same
but for blanks at the ends of lines. All cases must be right. docs/jail.md says what holds the code.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lorakit.jail.jail import jail
from lorakit.jail.processors import available_processors
from lorakit.tasks import ScoringOptions
from lorakit.tasks._code_cases import Cases, judge, read_cases

NAME = "code"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = False
SUMMARY = "share of answers whose code gives the right output for every case of the reference"

FENCES = ("```", "~~~")
PYTHON = ("python", "python3", "py")

log = logging.getLogger(__name__)


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: the jail is needed."""
    jail()


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1. As many run at a time as there are processors.

    Raises:
        InputError: the jail cannot be built on this machine; with the fix.
        RunError: it could not be built this time.
    """
    read = {reference: _cases(reference) for reference in set(references)}
    pairs = [(code_of(answer), one) for answer, one in zip(answers, references, strict=True)]
    without = sum(read[one] is None for _, one in pairs)
    if without and not options.knows_references:
        log.warning(
            "%s: %d of %d references hold no cases, so nothing is right for them",
            options.titled(NAME),
            without,
            len(pairs),
        )
    if without == len(pairs):
        return np.zeros(len(pairs))
    room = jail()

    def right(pair: tuple[str, str]) -> bool:
        code, cases = pair[0], read[pair[1]]
        if cases is None or not code.strip():
            return False
        return judge(code, cases, room, stop_if_asked=options.stop_if_asked).right

    # Completions of one question are often the same: what takes its whole time does so once.
    different = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor(available_processors()) as threads:
        found = dict(zip(different, threads.map(right, different), strict=True))
    return np.array([found[pair] for pair in pairs], np.float64)


def code_of(answer: str) -> str:
    """The code in an answer: the last block that says it is Python, or else the last that names no
    language, or else all of it."""
    found: dict[str, str] = {}
    fence = language = ""
    block: list[str] = []
    for line in answer.split("\n"):
        stripped = line.strip()
        if not fence:
            fence = next((mark for mark in FENCES if stripped.startswith(mark)), "")
            language, block = _language(stripped), []
        elif stripped.startswith(fence) and not stripped.strip(fence[0]):
            found["python" if language in PYTHON else language] = "\n".join(block)
            fence = ""
        else:
            block.append(line)
    if fence:
        found["python" if language in PYTHON else language] = "\n".join(block)
    return found.get("python", found.get("", answer))


def has_cases(reference: str) -> bool:
    """Whether there is anything to hold code to."""
    return _cases(reference) is not None


def _language(fence: str) -> str:
    words = fence.strip("`~").split()
    return words[0].lower() if words else ""


def _cases(reference: str) -> Cases | None:
    try:
        return read_cases(reference)
    except ValueError as error:
        log.info("code: a reference holds no cases: %s", error)
        return None
