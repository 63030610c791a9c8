"""What goes wrong in a run, seen in its metrics lines while it trains; each kind is said once.

The files of `watchers/` are found by listing the folder. `some_trouble.py` describes itself as a
rule of `lorakit.lint` does, so that it has a page in docs/rules and can be silenced by its id, and
defines `METHODS` and `see(run) -> Finding | None` besides. What a watcher says depends on the lines
and settings of the run alone, so that a resumed run says what an uninterrupted one would have.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast

from lorakit.data.contract import Finding
from lorakit.data.described import Described
from lorakit.data.silence import Told, without_silenced
from lorakit.train import watchers as _watchers
from lorakit.train.watched import Line, Watched


class Watcher(Described, Protocol):
    """What a file of `watchers/` defines; its findings are never errors.

    Attributes:
        METHODS: values of `train.method` whose runs it looks at.
    """

    METHODS: tuple[str, ...]

    def see(self, run: Watched) -> Finding | None:
        """The trouble, if the newest line shows it; called at every line until it does."""


@cache
def watchers() -> tuple[Watcher, ...]:
    """All watchers, sorted by id."""
    names = sorted(module.name for module in pkgutil.iter_modules(_watchers.__path__))
    return tuple(
        cast(Watcher, importlib.import_module(f"{_watchers.__name__}.{name}")) for name in names
    )


class Watch:
    """All watchers of one run.

    Args:
        run: its lines are added here.
    """

    def __init__(self, run: Watched) -> None:
        self._run = run
        self._watchers = [one for one in watchers() if run.method in one.METHODS]
        self._seen: set[str] = set()

    def open(self, lines: Sequence[Line]) -> None:
        """Go on after the lines of earlier processes: what they tell of is not said again."""
        for line in lines:
            self._run.add(line)
            self._seen |= {one["id"] for one in line.get("findings", [])}
            self._seen |= {*line.get("silenced", {})}

    def look(self, line: Line) -> Told:
        """What is seen for the first time at the newest line."""
        self._run.add(line)
        found = []
        for one in self._watchers:
            finding = None if one.ID in self._seen else one.see(self._run)
            if finding is not None:
                found.append(finding)
                self._seen.add(one.ID)
        return without_silenced(found, self._run.settings.silence)
