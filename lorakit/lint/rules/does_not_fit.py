"""A run that its device has not the memory for."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.room import UNSURE, need_of, smallest_fix
from lorakit.sizes import size

ID = "does-not-fit"
SEVERITIES = ("error", "warning")
TITLE = "A run that its device has not the memory for"
REASON = (
    "Runs out of memory hours after their start, at the longest row or in the evaluation, are "
    "complained about in every tool. The plan goes through the largest micro-batch, the optimizer "
    "step and the evaluation beforehand. An error where the run needs over 10 % more than the "
    "device has in all, which is what the plan may be off by; a warning where other programs hold "
    "what it needs, where the plan had to assume rows, or where weights would be offloaded "
    "although the recipe does not ask for it, which is several times slower. Nothing is said of a "
    "GPU that is not in this machine: `lorakit plan --gpu NAME` does."
)
SOURCE = (
    "unsloth#1624 and torchtune#2830 (one long row), axolotl#1813, LLaMA-Factory#1595 and "
    "ms-swift#3399 (evaluation); lorakit's own plan, held to 10 % of measured (docs/plan.md)"
)
EXAMPLE = "base: {model: meta-llama/Llama-3.1-8B, dtype: float32}   # 32 GB of weights, 24 GB there"
MEND = (
    "Make the change that the finding names, or choose another one that `lorakit plan --budget` "
    "offers; `--fit` writes it into the recipe."
)


def find(facts: Facts) -> Iterator[Finding]:
    need = need_of(facts)
    if need is None or (need.needed <= need.available and not need.offloaded):
        return
    fix = smallest_fix(facts, need)
    if need.needed <= need.available:
        message = (
            f"the run fits only with {size(need.offloaded)} of its weights offloaded, "
            f"which is several times slower; {fix}"
        )
        yield Finding(ID, "warning", message, "base.offload")
        return
    never = need.is_sure and need.needed > need.total * (1 + UNSURE)
    message = f"the run {need.in_words()}; {fix}"
    yield Finding(ID, "error" if never else "warning", message, "base.model")
