"""Lines of the log that say how training goes, where no bar shows it: in a file or a pipe."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


class StepLog:
    """Tells the metrics lines in words: all of them, `train.logging_steps` apart.

    Beside a bar only those with a validation, and those of a policy gradient, of which it shows but
    the reward.

    Args:
        num_steps: optimizer steps of the whole run.
        has_bar: whether a progress bar shows loss and speed of every step.
    """

    def __init__(self, num_steps: int, *, has_bar: bool) -> None:
        self._num_steps = num_steps
        self._has_bar = has_bar

    def tell(self, line: Mapping[str, Any]) -> None:
        """Say a line of metrics.jsonl, or be silent."""
        if not self._has_bar or "validation_loss" in line or _is_of_policy(line):
            log.info("%s", in_words(line, self._num_steps))


def in_words(line: Mapping[str, Any], num_steps: int) -> str:
    """`step 20 of 114, epoch 0.53: loss 2.1034, learning rate 1.9e-04, 1,234 tokens/s`."""
    # A policy's loss says nothing: its advantages add up to 0.
    told = _of_policy(line) if _is_of_policy(line) else f"loss {line['loss']:.4f}"
    said = (
        f"step {line['step']} of {num_steps}, epoch {line['epoch']:.2f}: {told}, "
        f"learning rate {line['learning_rate']:.1e}, {line['tokens_per_second']:,.0f} tokens/s"
    )
    validation = line.get("validation_loss")
    return said if validation is None else f"{said}; validation loss {validation:.4f}"


def _is_of_policy(line: Mapping[str, Any]) -> bool:
    return not {"ratio", "reward", "completions/mean_length"}.isdisjoint(line)


def _of_policy(line: Mapping[str, Any]) -> str:
    """`reward 0.312, 25 % of the groups all alike, KL 0.0012, 118 tokens a completion`."""
    parts = [
        form.format(line[name])
        for name, form in (
            ("reward", "reward {:.3f}"),
            ("frac_reward_zero_std", "{:.0%} of the completions in groups that vary in nothing"),
            ("kl", "KL {:.4f}"),
            ("completions/mean_length", "{:.0f} tokens a completion"),
        )
        if name in line
    ]
    return ", ".join(parts) or "learning from the same completions"
