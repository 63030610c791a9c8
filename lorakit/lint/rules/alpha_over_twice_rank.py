"""lora_alpha over twice the rank."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "alpha-over-twice-rank"
SEVERITIES = ("warning",)
TITLE = "lora_alpha over twice the rank"
REASON = (
    "The update is scaled by alpha / r. A scale over 2 acts like a higher learning rate on "
    "top of the one that is set, and makes training unstable. With rsLoRA (alpha / sqrt(r)) "
    "the convention is alpha = r or less."
)
SOURCE = "practice (alpha = r or 2r); rsLoRA (arXiv 2312.03732)"
EXAMPLE = "adapter: {r: 16, lora_alpha: 128}"
MEND = "Set lora_alpha to r or 2r, and steer with train.learning_rate."

MAX_ALPHA_PER_RANK = 2.0


def find(facts: Facts) -> Iterator[Finding]:
    adapter = facts.recipe.adapter
    if adapter.path is not None:
        return
    given = (
        {}
        if adapter.lora_alpha is None
        else {"adapter.lora_alpha": (adapter.lora_alpha, adapter.r)}
    )
    given |= {
        f"adapter.alpha_pattern.{name}": (alpha, adapter.rank_pattern.get(name, adapter.r))
        for name, alpha in adapter.alpha_pattern.items()
    }
    for where, (alpha, rank) in given.items():
        if alpha > MAX_ALPHA_PER_RANK * rank:
            message = (
                f"lora_alpha {alpha:g} is over twice the rank {rank}: the update is scaled by "
                f"{alpha / rank:g}, which destabilizes; set it to {rank} or {2 * rank}"
            )
            yield Finding(ID, "warning", message, where)
