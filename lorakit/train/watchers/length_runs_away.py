"""Completions that grow without being worth more."""

from __future__ import annotations

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched, mean

ID = "length-runs-away"
METHODS = ("grpo",)
SEVERITIES = ("warning",)
TITLE = "Completions grow without being worth more"
REASON = (
    "A policy that reasons may well write more; it runs away when that does not pay. Some losses "
    "make a long wrong answer cheaper than a short one, and what is cut off has no reward at all. "
    "It is said once, where completions of ten logged steps are half as long again as those of the "
    "first ten, and the reward has not risen, or a fifth more of them are cut off."
)
SOURCE = "Dr. GRPO (arXiv 2503.20783), section 3; DAPO (arXiv 2503.14476), sections 3.3 and 3.4"
EXAMPLE = "completions/mean_length from 118 to 402, reward from 0.51 to 0.47"
MEND = (
    "Read the samples. Set grpo.mask_truncated_completions, add a reward for length "
    "(soft_overlong_punishment), or choose grpo.loss_type dr_grpo or dapo, in which a long answer "
    "weighs no less."
)

WINDOW = 10  # logged steps
LONGER = 1.5
MORE_TRUNCATED = 0.2


def see(run: Watched) -> Finding | None:
    if len(run.generations) < 2 * WINDOW:
        return None
    ends = run.generations[:WINDOW], run.generations[-WINDOW:]
    before, now = (mean(lines, "completions/mean_length") for lines in ends)
    cut_before, cut = (mean(lines, "completions/clipped_ratio") for lines in ends)
    reward_before, reward = (mean(lines, "reward") for lines in ends)
    pays = reward > reward_before and cut < cut_before + MORE_TRUNCATED
    if now < LONGER * before or pays:
        return None
    message = (
        f"completions grew from {before:.0f} to {now:.0f} tokens while the reward went from "
        f"{reward_before:.3f} to {reward:.3f}; {cut:.0%} are cut off (at first {cut_before:.0%}); "
        "set mask_truncated_completions, add a reward for length, or choose loss_type dr_grpo or "
        "dapo, in which a long answer weighs no less"
    )
    return Finding(ID, "warning", message, run.where)
