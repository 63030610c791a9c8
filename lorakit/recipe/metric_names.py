"""Metrics that are no scorers of single answers (those are the files of tasks/)."""

from __future__ import annotations

LOSSES = ("loss", "perplexity")
# Accuracy on multiple-choice rows, by log-likelihood; what each is stands in evaluate/choice.py.
CHOICES = ("choice", "choice_text", "choice_text_bytes", "choice_text_tokens")
# The distance of tuned from base; of retention only, where any change is unasked for.
KL = "kl"
WIN_RATE = "win_rate"  # by the judge model of evaluate.judge
