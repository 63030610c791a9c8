"""What goes wrong in a policy gradient, seen in its metrics lines while it runs; each said once.

The newest WINDOW lines that tell of a generation speak for themselves, or are held against the
first WINDOW. Nothing is said before there are all that are needed, so a run of few lines is not
judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW = 10  # lines: their mean reward moves by a third of one line's own spread
NO_VARIANCE = 0.5
# A policy that reasons may well write more; it runs away when that does not pay.
LONGER = 1.5
MORE_TRUNCATED = 0.2
# In standard deviations of a reward between completions of the first lines.
MOVED = 0.5
LEAST_STD = 0.05  # of a reward that hardly varied at first, any change would be many

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        id: one for each kind.
        step: at which it was seen.
        message: what was seen, and what to do.
    """

    id: str
    step: int
    message: str


class PolicyWatch:
    """Reads lines as they come.

    Args:
        weights: {reward: weight} of the run.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._lines: list[Line] = []  # those that tell of a generation
        self._num_read = 0
        self._found: set[str] = set()

    def look(self, lines: Sequence[Line]) -> list[Finding]:
        """What is seen for the first time at the newest line.

        Args:
            lines: all of the run so far: of a resumed one what was seen before is not said again.
        """
        said: list[Finding] = []
        for line in lines[self._num_read :]:
            said = []
            if "reward" not in line:
                continue
            self._lines.append(line)
            first, last = _Window(self._lines[:WINDOW]), _Window(self._lines[-WINDOW:])
            for name, (num_windows, see) in _KINDS.items():
                if name in self._found or len(self._lines) < num_windows * WINDOW:
                    continue
                message = see(first, last, self._weights)
                if message is not None:
                    self._found.add(name)
                    said.append(Finding(name, line["step"], message))
        self._num_read = len(lines)
        return said


class _Window:
    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def mean(self, name: str) -> float:
        """Over the lines that have it; NaN where none has."""
        values = [line[name] for line in self._lines if name in line]
        return float(np.mean(values)) if values else float("nan")


def _no_variance(_: _Window, last: _Window, weights: Mapping[str, float]) -> str | None:
    share = last.mean("frac_reward_zero_std")
    if not share > NO_VARIANCE:
        return None
    return (
        f"{share:.0%} of the completions are in groups whose rewards are all the same, so that "
        f"nothing is learned from them (reward {last.mean('reward'):.3f}). If most are right, take "
        "harder questions; if most are wrong, easier ones or a warm start; else raise "
        "num_generations or temperature, or set max_resample_times"
    )


def _length(first: _Window, last: _Window, weights: Mapping[str, float]) -> str | None:
    before, now = (window.mean("completions/mean_length") for window in (first, last))
    cut_before, cut = (window.mean("completions/clipped_ratio") for window in (first, last))
    gained = last.mean("reward") > first.mean("reward")
    if now < LONGER * before or (gained and cut < cut_before + MORE_TRUNCATED):
        return None
    return (
        f"completions grew from {before:.0f} to {now:.0f} tokens while the reward went from "
        f"{first.mean('reward'):.3f} to {last.mean('reward'):.3f}; {cut:.0%} are cut off (at first "
        f"{cut_before:.0%}). Set mask_truncated_completions, add a reward for length, or choose "
        "loss_type dr_grpo or dapo, in which a long answer weighs no less"
    )


def _gamed(first: _Window, last: _Window, weights: Mapping[str, float]) -> str | None:
    moved = {}
    for name, weight in weights.items():
        before, now = (window.mean(f"rewards/{name}/mean") for window in (first, last))
        std = first.mean(f"rewards/{name}/std")
        spread = max(LEAST_STD, 0.0 if np.isnan(std) else std)
        moved[name] = np.sign(weight) * (now - before) / spread
    up = max(moved, key=lambda name: np.nan_to_num(moved[name]))
    down = min(moved, key=lambda name: np.nan_to_num(moved[name]))
    if not (moved[up] >= MOVED and moved[down] <= -MOVED):
        return None
    means = {n: [w.mean(f"rewards/{n}/mean") for w in (first, last)] for n in (up, down)}
    told = ", ".join(f"{name} {ends[0]:.3f} to {ends[1]:.3f}" for name, ends in means.items())
    return (
        f"reward {up!r} is gained at the cost of {down!r} ({told}): it may be had without doing "
        "what is asked. Read completions that have much of it, then mend that reward or lower its "
        "weight"
    )


# {id: (how many windows it compares, what it sees)}
_KINDS: dict[str, tuple[int, Callable[[_Window, _Window, Mapping[str, float]], str | None]]] = {
    "groups-without-variance": (1, _no_variance),
    "length-runs-away": (2, _length),
    "reward-gamed": (2, _gamed),
}
