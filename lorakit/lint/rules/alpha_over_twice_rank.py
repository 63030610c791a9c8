"""lora_alpha that scales the update by more than it bears."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lorakit.adapters.ranks import RSLORA_ALPHA, scaling_of
from lorakit.data.contract import Finding, Severity
from lorakit.lint.facts import Facts
from lorakit.recipe import LoraConfig

ID = "alpha-over-twice-rank"
SEVERITIES = ("warning", "note")
TITLE = "lora_alpha over twice the rank"
REASON = (
    "The update is scaled by alpha / r. A scale over 2 acts like a higher learning rate on "
    "top of the one that is set, and makes training unstable. A rank_pattern has the same alpha "
    "over a smaller rank, unless alpha_pattern names it too. rsLoRA scales by alpha / sqrt(r): an "
    "alpha that suits LoRA is many times too much there (r 128, alpha 256: 23 instead of 2). Its "
    "paper keeps one alpha of 16 at all ranks; over r it is a warning, from a scale of 4 on a note."
)
SOURCE = "practice (alpha = r or 2r); rsLoRA (arXiv 2312.03732)"
EXAMPLE = "adapter: {r: 16, lora_alpha: 128}"
MEND = (
    "Set lora_alpha to r or 2r (with rsLoRA to twice the square root of r), and steer with "
    "train.learning_rate."
)

MAX_SCALE = 2.0
MAX_RSLORA_SCALE = 4.0


def find(facts: Facts) -> Iterator[Finding]:
    adapter = facts.recipe.adapter
    if adapter.path is not None:
        return
    for where, (alpha, rank) in _given(adapter).items():
        scale = scaling_of(rank, alpha, use_rslora=adapter.use_rslora)
        # A rank is named where a rule of its own for alpha is missing.
        name = where.removeprefix("adapter.rank_pattern.")
        to_set = "it" if name == where else f"adapter.alpha_pattern.{name}"
        if not adapter.use_rslora and scale > MAX_SCALE:
            message = (
                f"lora_alpha {alpha:g} is over twice the rank {rank}: the update is scaled by "
                f"{scale:g}, which destabilizes; set {to_set} to {rank} or {2 * rank}"
            )
            yield Finding(ID, "warning", message, where)
        elif adapter.use_rslora and scale > MAX_RSLORA_SCALE:
            severity: Severity = "warning" if alpha > rank else "note"
            message = (
                f"lora_alpha {alpha:g} with rsLoRA at rank {rank}: the update is scaled by alpha / "
                f"sqrt(r) = {scale:.3g}, where 2 is usual; set {to_set} to "
                f"{MAX_SCALE * math.sqrt(rank):.0f}, or leave lora_alpha out ({RSLORA_ALPHA:g})"
            )
            yield Finding(ID, severity, message, where)


def _given(adapter: LoraConfig) -> dict[str, tuple[float, int]]:
    """{where: (alpha, the rank it is over)} of what the recipe says."""
    given = {
        f"adapter.alpha_pattern.{name}": (alpha, adapter.rank_pattern.get(name, adapter.r))
        for name, alpha in adapter.alpha_pattern.items()
    }
    alpha = adapter.lora_alpha
    if alpha is None:  # follows the rank, of every module its own
        return given
    of_ranks = {
        f"adapter.rank_pattern.{name}": (alpha, rank)
        for name, rank in adapter.rank_pattern.items()
        if name not in adapter.alpha_pattern
    }
    return {"adapter.lora_alpha": (alpha, adapter.r), **given, **of_ranks}
