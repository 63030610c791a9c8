"""What a run took: where its time goes, and how much memory, beside what its plan said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from lorakit.sizes import size

# What the plan is held to (docs/plan.md).
PLANNED_TO = 0.1
# Below it what libraries load is a large part of a CPU's peak (see `plan/libraries.py`).
SMALL_BYTES = 1 << 30


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
    on_cpu: bool = False

    def describe(self) -> str:
        """One line for people."""
        return (
            f"memory: predicted {size(self.predicted)}, measured {size(self.measured)}: "
            f"{self.off_by()}"
        )

    def off_by(self) -> str:
        """How far the plan was from what was measured, the one base of every such number, and why
        where that is known."""
        off = self.predicted / max(1, self.measured) - 1
        more = "more" if off > 0 else "less"
        words = f"the plan has {abs(off):.0%} {more} than was measured"
        if self.on_cpu and off < -PLANNED_TO and self.measured < SMALL_BYTES:
            words += "; of so small a model most is code and tables of libraries, which vary"
        return words
