"""What is wrong with a recipe, and the words that all rules share."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe: where (`("base", "block_size")`) and what."""

    path: tuple[str | int, ...]
    message: str
    effectless: bool = False  # the value is allowed, it only changes nothing


class RuleError(ValueError):
    """Carries faults through pydantic, which keeps the exception that a validator raises."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, f.path))}: {f.message}" for f in faults))
        self.faults = faults


def is_given(section: Any, name: str) -> bool:
    """Whether a value is the user's own, not the default."""
    return name in section.model_fields_set


def names_in(folder: str) -> tuple[str, ...]:
    """The variants in a folder of the package, one file each, without importing them."""
    return tuple(
        sorted(path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem[0] != "_")
    )


def not_built(path: tuple[str | int, ...], value: object, possible: tuple[str, ...]) -> Fault:
    """A value that other tools know."""
    return Fault(path, f"{value!r} is not built yet; possible: {', '.join(possible)}")


def unknown(path: tuple[str | int, ...], value: object, possible: tuple[str, ...]) -> Fault:
    """A value that nobody knows."""
    near = difflib.get_close_matches(str(value), possible, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return Fault(path, f"{value!r} is not known{hint} Possible: {', '.join(possible)}")


def no_effect(path: tuple[str | int, ...], because: str, remedy: str) -> Fault:
    """A value that is allowed and changes nothing."""
    message = f"cannot take effect because {because}; remove it, or {remedy}"
    return Fault(path, message, effectless=True)
