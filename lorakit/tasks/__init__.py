"""Scorers of answers, found by listing this folder; they serve evaluation, and rewards later.

`<name>.py` defines `NAME` (the file's name), `HIGHER_IS_BETTER`, `IS_OF_A_SET`,
`IS_RIGHT_OR_WRONG`, `HAS_FINAL_ANSWER`, `SUMMARY` (one line), `check(options)` and
`scores(answers, references, options) -> float64 (E,)`, called once for a whole set; with a final
answer also `same_answers(answers)`, for those who vote. A file whose name begins with an underscore
is a part of others.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from lorakit.errors import RecipeError

Answer = TypeVar("Answer", bound=Hashable)
Score = TypeVar("Score")


def _never() -> None:
    """Who asks does not want to stop."""


@dataclass(frozen=True)
class ScoringOptions:
    """What a scorer may need besides answers and references.

    Attributes:
        regex: pattern of the metric `regex`.
        json_schema: the schema of the metric `json_schema`, as parsed; None: it is not given.
        seed: of whatever a scorer draws.
        set_name: of the set whose answers are scored, for messages; "": it has none.
        knows_references: whether the same references were scored before, for other answers: what
            is wrong with them was told then.
        stop_if_asked: called between two answers, from any thread, by scorers whose answers may
            take seconds each; what it raises ends the scoring.
    """

    regex: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    seed: int = 0
    set_name: str = field(default="", compare=False)
    knows_references: bool = field(default=False, compare=False)
    stop_if_asked: Callable[[], None] = field(default=_never, compare=False, repr=False)

    def titled(self, scorer: str) -> str:
        """How a message of a scorer begins: `math (in_domain)`."""
        return f"{scorer} ({self.set_name})" if self.set_name else scorer

    def identity(self) -> dict[str, Any]:
        """What scores depend on."""
        return {"regex": self.regex, "json_schema": self.json_schema, "seed": self.seed}


class Scorer(Protocol):
    """What a file of this folder defines.

    Attributes:
        IS_OF_A_SET: whether a score depends on the other rows of the set, which no reward may.
        IS_RIGHT_OR_WRONG: whether a score is 1 or 0 and nothing else, as pass@k needs.
        HAS_FINAL_ANSWER: whether texts come to an answer, which others may come to too, as
            majority@k needs; then it is a `Voter`.
    """

    NAME: str
    HIGHER_IS_BETTER: bool
    IS_OF_A_SET: bool
    IS_RIGHT_OR_WRONG: bool
    HAS_FINAL_ANSWER: bool
    SUMMARY: str

    def check(self, options: ScoringOptions) -> None:
        """See that what it needs besides answers is there: before a model is loaded.

        Raises:
            InputError: something is not; with the fix.
        """

    def scores(
        self, answers: Sequence[str], references: Sequence[str], options: ScoringOptions
    ) -> np.ndarray:
        """Score every answer of a set.

        Args:
            answers: E texts; empty, huge and foreign ones are answers like any other.
            references: E texts, the right answer of each.
            options: what the recipe says.

        Returns:
            float64 (E,), finite.
        """


class Voter(Scorer, Protocol):
    """A scorer whose answers can be counted as votes."""

    def same_answers(self, answers: Sequence[str]) -> list[int | None]:
        """Number texts by their final answers.

        Args:
            answers: of one question.

        Returns:
            For each a number from 0 on, equal where the final answers are; None where a text has
            none, which scores 0 whatever the reference is.
        """


def numbered(keys: Sequence[Hashable | None]) -> list[int | None]:
    """Numbers from 0 on in the order in which keys are first seen; None stays None."""
    known = {
        key: place for place, key in enumerate(dict.fromkeys(k for k in keys if k is not None))
    }
    return [None if key is None else known[key] for key in keys]


def of_different(
    answers: Sequence[Answer], score: Callable[[Answer], Score], options: ScoringOptions
) -> dict[Answer, Score]:
    """What `score` makes of each different answer, for scorers that may take seconds for one.

    Completions of one question are often the same: what takes its whole time does so once.
    """
    found: dict[Answer, Score] = {}
    for answer in dict.fromkeys(answers):
        options.stop_if_asked()
        found[answer] = score(answer)
    return found


def names() -> list[str]:
    """The scorers in this folder, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


@cache
def scorer(name: str) -> Scorer:
    """The scorer called `name`.

    Raises:
        RecipeError: there is no file of that name.
    """
    if name not in names():
        raise RecipeError(
            f"scorer {name!r} does not exist; scorers are {', '.join(names())}. Choose one of them."
        )
    return cast(Scorer, importlib.import_module(f"{__name__}.{name}"))


def voter(name: str) -> Voter:
    """The scorer called `name`, whose texts come to final answers.

    Raises:
        RecipeError: they do not, or there is no such scorer.
    """
    found = scorer(name)
    if not found.HAS_FINAL_ANSWER:
        possible = [one for one in names() if scorer(one).HAS_FINAL_ANSWER]
        raise RecipeError(
            f"scorer {name!r} knows no final answer that others could agree on; those are "
            f"{', '.join(possible)}. Choose one of them."
        )
    return cast(Voter, found)


def summaries() -> dict[str, str]:
    """{scorer: what it measures, in one line}, sorted by name."""
    return {name: scorer(name).SUMMARY for name in names()}
