"""Groups of completions that nothing sets apart: nothing is learned from them."""

from __future__ import annotations

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched, mean

ID = "groups-without-variance"
METHODS = ("grpo",)
SEVERITIES = ("warning",)
TITLE = "Most groups of completions have the same reward throughout"
REASON = (
    "An advantage is a reward against the others of its group. Where all are right, or all are "
    "wrong, every advantage is 0 and the time of rolling out is lost. It is said once, where over "
    "ten logged steps more than half of the completions are in such groups."
)
SOURCE = "DAPO (arXiv 2503.14476), section 3.2: dynamic sampling"
EXAMPLE = "frac_reward_zero_std 0.74, reward 0.031"
MEND = (
    "If most are right, take harder questions; if most are wrong, easier ones, a warm start, or a "
    "reward that tells half right from wrong. Else raise grpo.num_generations or "
    "grpo.temperature, or set grpo.max_resample_times."
)

WINDOW = 10  # logged steps: their mean reward moves by a third of one line's own spread
SHARE = 0.5


def see(run: Watched) -> Finding | None:
    if len(run.generations) < WINDOW:
        return None
    newest = run.generations[-WINDOW:]
    share = mean(newest, "frac_reward_zero_std")
    if not share > SHARE:
        return None
    message = (
        f"{share:.0%} of the completions are in groups whose rewards are all the same, so that "
        f"nothing is learned from them (reward {mean(newest, 'reward'):.3f}); if most are right, "
        "take harder questions; if most are wrong, easier ones or a warm start; else raise "
        "num_generations or temperature, or set max_resample_times"
    )
    return Finding(ID, "warning", message, run.where)
