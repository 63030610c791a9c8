"""Whether the pattern of `evaluate.regex` is found in the answer; the reference is not looked at.

The pattern may match anywhere; `\\A` and `\\Z` tie it to the ends, `(?i)` and `(?s)` work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import regex

from lorakit.errors import RecipeError
from lorakit.tasks import ScoringOptions, of_different

NAME = "regex"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = False
SUMMARY = "share of answers in which the pattern of evaluate.regex is found"

# Nested quantifiers can take longer than the universe; an answer is searched in microseconds.
TIMEOUT_SECONDS = 1.0

log = logging.getLogger(__name__)


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: a pattern is needed that can be read."""
    _pattern(options)


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1, a search that runs out of time is 0 and told.

    Raises:
        RecipeError: no pattern is given, or what is none.
    """
    pattern = _pattern(options)
    searched = of_different(answers, lambda answer: _found(pattern, answer), options)
    stopped = [answer for answer in answers if searched[answer] is None]
    if stopped:
        log.warning(
            "evaluate.regex took over %s s on %d of %d answers (the first has %d characters), "
            "which count as not found; write the pattern without nested repetitions",
            TIMEOUT_SECONDS,
            len(stopped),
            len(answers),
            len(stopped[0]),
        )
    return np.array([searched[answer] is True for answer in answers], np.float64)


def _pattern(options: ScoringOptions) -> regex.Pattern[str]:
    if options.regex is None:
        raise RecipeError("metric regex has no pattern to search for; set evaluate.regex.")
    try:
        return regex.compile(options.regex)
    except regex.error as error:
        raise RecipeError(
            f"metric regex: {options.regex!r} is no pattern ({error}); possible: Python's syntax. "
            "Correct evaluate.regex."
        ) from error


def _found(pattern: regex.Pattern[str], answer: str) -> bool | None:
    """None: the search ran out of time."""
    try:
        return pattern.search(answer, timeout=TIMEOUT_SECONDS) is not None
    except TimeoutError:
        return None
