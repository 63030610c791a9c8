"""What a run took: where its time goes, and how much memory, beside what its plan said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Clock:
    """Where the time of a run goes.

    Attributes:
        began: on the monotonic clock.
        parts: {part: seconds}, under the names of the plan's parts.
    """

    began: float
    parts: dict[str, float] = field(default_factory=dict)

    def count(self, part: str, seconds: float) -> None:
        """Seconds more of a part."""
        self.parts[part] = self.parts.get(part, 0.0) + seconds

    def rest(self) -> float:
        """Seconds that no part has."""
        return time.monotonic() - self.began - sum(self.parts.values())

    def measured(self) -> dict[str, Any]:
        """As the plan has it: of the whole, generated answers are no part."""
        total = sum(seconds for part, seconds in self.parts.items() if part != "answers")
        by_part = {part: round(seconds, 3) for part, seconds in self.parts.items()}
        return {"seconds": round(total, 3), "seconds_by_part": by_part}


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the highest, as the plan had it and as it came (see `train/memory.py`)."""

    predicted: int
    measured: int

    def describe(self) -> str:
        """One line for people."""
        return (
            f"memory: predicted {self.predicted / 2**30:.2f} GiB, measured "
            f"{self.measured / 2**30:.2f} GiB ({self.predicted / max(1, self.measured) - 1:+.0%})"
        )
