"""The corpus: `cases()` gives it, `write(folder)` writes a folder for each case.

python -m tests.lint.corpus.unseen.make FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.lint.corpus.unseen import flawed_data, flawed_recipes, sound
from tests.lint.corpus.unseen.case import Case

__all__ = ["Case", "cases", "write"]


def cases() -> list[Case]:
    """24 cases with one flaw each, then 12 sound ones; the same on every call."""
    return [*flawed_recipes.cases(), *flawed_data.cases(), *sound.cases()]


def write(folder: Path) -> dict[str, Path]:
    """{case name: its recipe}, with the data and case.yaml beside it."""
    return {case.name: case.write(folder) for case in cases()}


if __name__ == "__main__":
    for name in write(Path(sys.argv[1])):
        print(name)
