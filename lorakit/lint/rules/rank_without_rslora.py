"""A rank above 64 without rsLoRA."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "rank-without-rslora"
SEVERITIES = ("warning",)
TITLE = "A rank above 64 without rsLoRA"
REASON = (
    "LoRA's scaling alpha / r shrinks the update as the rank grows, so that a high rank "
    "learns no more than a low one; rsLoRA divides by the square root of r instead. Ranks of "
    "32 to 64 are the usual best balance."
)
SOURCE = "rsLoRA (arXiv 2312.03732); arXiv 2512.15634"
EXAMPLE = "adapter: {r: 128}"
MEND = (
    "Set adapter.use_rslora: true, with lora_alpha left out or near twice the square root of r; "
    "or lower r to 64."
)

MAX_RANK = 64


def find(facts: Facts) -> Iterator[Finding]:
    adapter = facts.recipe.adapter
    if adapter.path is not None or adapter.use_rslora:
        return
    ranks = {"adapter.r": adapter.r}
    ranks |= {f"adapter.rank_pattern.{name}": rank for name, rank in adapter.rank_pattern.items()}
    for where, rank in ranks.items():
        if rank > MAX_RANK:
            # An alpha of LoRA would be scaled far too high.
            fitting = f" with lora_alpha {2 * math.sqrt(rank):.0f}"
            alpha = "" if adapter.lora_alpha is None else fitting
            message = (
                f"rank {rank} is over {MAX_RANK} without rsLoRA: alpha / r scales the update down "
                f"as the rank grows; set adapter.use_rslora: true{alpha}, or lower the rank"
            )
            yield Finding(ID, "warning", message, where)
