"""Scorers of answers, found by listing this folder; they serve evaluation, and rewards later.

`<name>.py` defines `NAME` (the file's name), `HIGHER_IS_BETTER`, `IS_OF_A_SET`, `SUMMARY` (one
line), `check(options)` and `scores(answers, references, options) -> float64 (E,)`, called once for
a whole set. A file whose name begins with an underscore is a part of others.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import numpy as np

from lorakit.errors import RecipeError


@dataclass(frozen=True)
class ScoringOptions:
    """What a scorer may need besides answers and references.

    Attributes:
        regex: pattern of the metric `regex`.
        json_schema: the schema of the metric `json_schema`, as parsed; None: it is not given.
        seed: of whatever a scorer draws.
    """

    regex: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    seed: int = 0


class Scorer(Protocol):
    """What a file of this folder defines.

    Attributes:
        IS_OF_A_SET: whether a score depends on the other rows of the set, which no reward may.
    """

    NAME: str
    HIGHER_IS_BETTER: bool
    IS_OF_A_SET: bool
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


def summaries() -> dict[str, str]:
    """{scorer: what it measures, in one line}, sorted by name."""
    return {name: scorer(name).SUMMARY for name in names()}
