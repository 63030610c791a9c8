"""A learning rate above 5e-4."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "learning-rate-too-high"
SEVERITIES = ("warning", "note")
TITLE = "A learning rate above 5e-4"
REASON = (
    "LoRA starts well at 2e-4 (1e-4 to 3e-4 are usual); above 5e-4 models of billions of "
    "parameters overshoot. Narrow models bear more: the best rate of Adam falls with the "
    "width (muP), so the limit here is 5e-4 at a hidden size of 2,048 and wider, and "
    "inversely more below; between 5e-4 and that limit it is a note. A policy gradient "
    "(train.method grpo) bears a fifth: 1e-5 to 1e-4 are usual, above it a policy collapses onto "
    "what was rewarded first."
)
SOURCE = "practice; muP (arXiv 2203.03466)"
EXAMPLE = "train: {learning_rate: 2e-3}"
MEND = "Start at 2e-4; go to 1e-4 if the loss does not fall within 50 steps."

LIMIT, POLICY_LIMIT = 5e-4, 1e-4
WIDTH = 2048  # hidden size from which the limit holds as it is


def find(facts: Facts) -> Iterator[Finding]:
    rate = facts.recipe.train.learning_rate
    least, start = (POLICY_LIMIT, "2e-5") if facts.is_policy else (LIMIT, "2e-4")
    limit = least * max(1.0, WIDTH / facts.hidden_size)
    if rate > limit:
        message = (
            f"learning_rate {rate:g} is above {limit:.2g}, from where a base of hidden size "
            f"{facts.hidden_size} overshoots; start at {start}"
            + (
                ""
                if limit == least
                else f", or a few times that ({limit / 4:.1g}) for so small a base"
            )
        )
        yield Finding(ID, "warning", message, "train.learning_rate")
    elif rate > least:
        message = (
            f"learning_rate {rate:g} is above {least:g}, too high for most bases; one of hidden "
            "size "
            f"{facts.hidden_size} bears it (up to about {limit:.1g})"
        )
        yield Finding(ID, "note", message, "train.learning_rate")
