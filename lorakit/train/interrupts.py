"""SIGTERM and Ctrl-C set a flag; the loop saves at the next step boundary and stops."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


class Interrupts:
    """The first signal received, or None."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; the second one ends the process at once."""
        if self.received is not None:
            _say(f"{signal.Signals(number).name} again: ended at once, nothing more is saved")
            # No cleanup: a save in progress leaves a staging folder, which the next start removes.
            os._exit(128 + number)
        self.received = signal.Signals(number)
        if log.isEnabledFor(logging.INFO):
            name = self.received.name
            _say(f"{name}: stopping after this step; a second one ends it at once, unsaved")


def _say(text: str) -> None:
    """A line on stderr, past Python's files: a signal may come while one of them is written to."""
    with suppress(OSError):  # nobody reads it
        os.write(2, f"\n{text}\n".encode())


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Catch the signals inside the `with` block; the handlers from before are back afterwards.

    Only the main thread may handle signals; in another one nothing is caught, and that is logged.
    """
    caught = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        log.warning("training outside the main thread: SIGTERM and Ctrl-C will not save first")
        yield caught
        return
    before = {number: signal.signal(number, caught.handle) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
