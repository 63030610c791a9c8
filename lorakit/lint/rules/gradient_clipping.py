"""Gradients clipped far too hard, or not at all at a high rate."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "gradient-clipping"
SEVERITIES = ("warning",)
TITLE = "Gradients clipped far too hard, or not at all at a high rate"
REASON = (
    "max_grad_norm 1 (0.3 in QLoRA) only cuts outliers. One a hundred times smaller makes "
    "every step the same length, whatever the loss says."
)
SOURCE = "practice; QLoRA (arXiv 2305.14314): 0.3"
EXAMPLE = "train: {max_grad_norm: 0.001}"
MEND = "Set train.max_grad_norm: 1.0."

TOO_LOW = 0.02


def find(facts: Facts) -> Iterator[Finding]:
    norm = facts.recipe.train.max_grad_norm
    if norm is not None and norm < TOO_LOW:
        message = f"max_grad_norm {norm:g} clips every step; 1 (or 0.3) cuts outliers only"
        yield Finding(ID, "warning", message, "train.max_grad_norm")
