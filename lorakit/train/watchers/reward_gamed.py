"""A reward that is gained at the cost of another."""

from __future__ import annotations

import numpy as np

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched, mean

ID = "reward-gamed"
METHODS = ("grpo",)
SEVERITIES = ("warning",)
TITLE = "A reward is gained at the cost of another"
REASON = (
    "A policy finds the cheapest way to a reward. Where one rises while another falls, the first "
    "may be had without doing what is asked: a format without an answer, a length without a "
    "content. It is said once, where between the first and the last ten logged steps one reward "
    "gained, and another lost, half of its standard deviation between completions at first."
)
SOURCE = "Skalse et al., Defining and Characterizing Reward Hacking (arXiv 2209.13085)"
EXAMPLE = "rewards/tags/mean from 0.50 to 0.95, rewards/math/mean from 0.60 to 0.21"
MEND = "Read completions that have much of it, then mend that reward or lower its weight."

WINDOW = 10  # logged steps
MOVED = 0.5  # standard deviations
LEAST_STD = 0.05  # of a reward that hardly varied at first, any change would be many


def see(run: Watched) -> Finding | None:
    if run.grpo is None or len(run.generations) < 2 * WINDOW:
        return None
    first, last = run.generations[:WINDOW], run.generations[-WINDOW:]
    ends, moved = {}, {}
    for one in run.grpo.rewards:
        key = f"rewards/{one.name}"
        ends[one.name] = before, now = mean(first, f"{key}/mean"), mean(last, f"{key}/mean")
        std = mean(first, f"{key}/std")
        spread = max(LEAST_STD, 0.0 if np.isnan(std) else std)
        moved[one.name] = float(np.nan_to_num(np.sign(one.weight) * (now - before) / spread))
    up, down = max(moved, key=moved.__getitem__), min(moved, key=moved.__getitem__)
    if not (moved[up] >= MOVED and moved[down] <= -MOVED):
        return None
    told = ", ".join(f"{name} {ends[name][0]:.3f} to {ends[name][1]:.3f}" for name in (up, down))
    message = (
        f"reward {up!r} is gained at the cost of {down!r} ({told}): it may be had without doing "
        "what is asked; read completions that have much of it, then mend that reward or lower its "
        "weight"
    )
    return Finding(ID, "warning", message, run.where)
