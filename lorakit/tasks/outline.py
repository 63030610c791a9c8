"""Whether the answer has the form of the reference: its headings, in its order, and no others.

A heading is a line that begins with one to four words and a colon, the first letter a capital
(`Plan:`, also `Follow-up care: in two weeks`), or a markdown heading (`## Plan`). Case and the way
it is written do not matter. Each heading of the reference has to stand there exactly once with
something under it. An answer to a reference without headings scores 1 when it has none either,
but for an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex

from lorakit.tasks import ScoringOptions

NAME = "outline"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = False
SUMMARY = "share of answers with the reference's headings, in its order, none empty, no others"

_WORD = r"[\p{L}\p{N}][\p{L}\p{M}\p{N}'\u2019\-/&()]*"
_HEADING = regex.compile(
    rf"^[ \t]*(?:\#{{1,6}}[ \t]++(?P<marked>[^\n]*\S)"
    rf"|\**(?P<plain>(?=[\p{{Lu}}\p{{Lt}}\p{{Lo}}]){_WORD}(?:[ \t]{_WORD}){{0,3}})\**:\**"
    rf"(?!\S)(?P<rest>[^\n]*))"
)


@dataclass(frozen=True)
class Section:
    """A heading as it is compared (lower case, no marks around it), and the text under it."""

    heading: str
    content: str


def sections(text: str) -> list[Section]:
    """The sections of a text, in order; what stands before the first heading belongs to none."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        match = _HEADING.match(line)
        if match is None:
            if found:
                found[-1][1].append(line)
        elif match["marked"] is not None:
            found.append((_name(match["marked"]), []))
        else:
            found.append((_name(match["plain"]), [match["rest"]]))
    return [Section(heading, "\n".join(lines).strip()) for heading, lines in found]


def _name(heading: str) -> str:
    return " ".join(heading.strip("#*: \t").lower().split())


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: nothing is needed."""


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1."""
    pairs = zip(answers, references, strict=True)
    return np.array([_has_form(answer, reference) for answer, reference in pairs], np.float64)


def _has_form(answer: str, reference: str) -> bool:
    if not answer.strip() and reference.strip():  # nothing has no form
        return False
    return _follows(sections(answer), sections(reference))


def _follows(answer: list[Section], reference: list[Section]) -> bool:
    headings = [section.heading for section in answer]
    wanted = [section.heading for section in reference]
    return headings == wanted and all(section.content for section in answer)
