"""Progress bars on stderr: shown on a terminal for work over two seconds, silent elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

SHOW_AFTER_SECONDS = 2.0
UPDATE_SECONDS = 0.05  # telling the bar takes longer than many a row does

Item = TypeVar("Item")

# Of the bars that are open, outermost first: a bar inside another is shown below it, which takes
# one console for both.
_consoles: list[Console] = []


def bars_are_shown() -> bool:
    """Whether progress is seen: stderr is a terminal."""
    return Console(file=sys.stderr).is_terminal


class Bar:
    """One running piece of work. `advance` is cheap enough to call for every row."""

    def __init__(self, description: str, total: int | None, *, console: Console) -> None:
        # Imported here: it takes a tenth of a second, and short commands draw no bar.
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._columns = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._columns.add_task(description, total=total, facts="")
        self._started = time.monotonic()
        self._updated = -math.inf
        self._shown = False
        self._waiting = 0

    def advance(self, amount: int = 1, *, facts: str = "") -> None:
        """Count `amount` more units done; `facts` is a short text: `loss 1.23 410 tokens/s`."""
        self._waiting += amount
        now = time.monotonic()
        if now - self._updated < UPDATE_SECONDS:
            return
        self._columns.update(self._task, advance=self._waiting, facts=facts)
        self._waiting, self._updated = 0, now
        if not self._shown and now - self._started > SHOW_AFTER_SECONDS:
            self._columns.start()
            self._shown = True

    def close(self) -> None:
        """Remove the bar."""
        self._columns.stop()


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Bar]:
    """A progress bar for the time of the `with` block; `total` None when the end is not known."""
    console = _consoles[0] if _consoles else Console(file=sys.stderr)
    running = Bar(description, total, console=console)
    _consoles.append(console)
    try:
        yield running
    finally:
        _consoles.pop()
        running.close()


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, showing how far they are."""
    with bar(description, total) as running:
        for item in items:
            yield item
            running.advance()
