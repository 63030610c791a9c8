"""The least of several timings: a machine that is interrupted is only ever slower.

Pieces of work are timed in turns, so that the timings of each lie apart and what disturbs a moment
disturbs one of each, not all of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key")

# Of each piece, whatever the time is; and where there is time.
MIN_ROUNDS = 3
MAX_ROUNDS = 8
# Two least timings of one piece that differ more say that no undisturbed moment was found; a
# smaller gap in seconds is that of a clock and a scheduler, on any machine.
BUSY_RATIO = 3.0
SMALLEST_GAP = 1e-3


def in_turns(
    works: Mapping[Key, Callable[[], float]],
    *,
    until: float,
    now: Callable[[], float] = time.monotonic,
) -> dict[Key, list[float]]:
    """Seconds that each piece says it took, one after the other, `MIN_ROUNDS` times at least.

    Args:
        until: no further round begins after this moment of `now`.
    """
    times: dict[Key, list[float]] = {key: [] for key in works}
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and now() >= until:
            break
        for key, work in works.items():
            times[key].append(work())
    return times


def were_disturbed(times: Sequence[float]) -> bool:
    """Whether even the two least of several timings of one piece do not agree."""
    least, second = sorted(times)[:2]
    return second > BUSY_RATIO * least and second - least > SMALLEST_GAP
