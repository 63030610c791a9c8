"""A LoRA+ ratio far above what was found to work."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "lora-plus-ratio-high"
SEVERITIES = ("warning",)
TITLE = "A LoRA+ ratio far above what was found to work"
REASON = (
    "LoRA+ gives B a learning rate about 16 times A's. Far more destabilizes, as a high "
    "learning rate does."
)
SOURCE = "LoRA+ (arXiv 2402.12354): 16, with a lower base rate"
EXAMPLE = "train: {loraplus_lr_ratio: 200}"
MEND = "Set train.loraplus_lr_ratio to 4 to 16."

MAX_RATIO = 64


def find(facts: Facts) -> Iterator[Finding]:
    ratio = facts.recipe.train.loraplus_lr_ratio
    if ratio is not None and ratio > MAX_RATIO:
        message = f"loraplus_lr_ratio {ratio:g}: 16 is what the paper found; far more destabilizes"
        yield Finding(ID, "warning", message, "train.loraplus_lr_ratio")
