"""Metrics that are no scorers of single answers (those are the files of tasks/)."""

from __future__ import annotations

from collections.abc import Sequence

LOSSES = ("loss", "perplexity")
# Accuracy on multiple-choice rows, by log-likelihood; what each is stands in evaluate/choice.py.
CHOICES = ("choice", "choice_text", "choice_text_bytes", "choice_text_tokens")
# The distance of tuned from base; of retention only, where any change is unasked for.
KL = "kl"
WIN_RATE = "win_rate"  # by the judge model of evaluate.judge


def sampled_metrics(
    scorer: str, pass_at: Sequence[int], majority_at: Sequence[int]
) -> tuple[str, ...]:
    """What sampled answers are measured by: `math/pass@4`, `math/majority@8`."""
    passes = [f"{scorer}/pass@{k}" for k in pass_at]
    return (*passes, *(f"{scorer}/majority@{k}" for k in majority_at))


def scorer_of(metric: str) -> str:
    """The scorer behind a metric: `math` of `math/pass@4`, and of `math`."""
    return metric.partition("/")[0]
