"""Rewards that have no opinion of any completion: nothing is learned, and no number says so."""

from __future__ import annotations

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched

ID = "no-reward"
METHODS = ("grpo",)
SEVERITIES = ("warning",)
TITLE = "No reward gave a number to any completion"
REASON = (
    "A reward may have no opinion of a completion: a function of your own returns None or NaN for "
    "it. A completion that no reward judges teaches nothing; a generation of such completions is "
    "time lost, and its metrics have no reward. It is said at the first such line."
)
SOURCE = "TRL, GRPOTrainer: warns where all reward functions return None for a row"
EXAMPLE = "rewards: [mine.py:only_code] with questions of which none asks for code"
MEND = (
    "Return a number where the reward can judge, 0 for what is worth nothing; keep None for rows "
    "that the reward is not about, and give those rows another reward."
)


def see(run: Watched) -> Finding | None:
    line = run.newest
    if "completions/mean_length" not in line or "reward" in line:
        return None
    message = (
        f"no reward gave a number to any completion of the steps up to {line['step']}: all were "
        "None or NaN, so that nothing is learned; return a number where the reward can judge, 0 "
        "for what is worth nothing"
    )
    return Finding(ID, "warning", message, run.where)
