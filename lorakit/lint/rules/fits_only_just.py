"""A run that fits by less than the plan may be off by."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.room import need_of, smallest_fix

ID = "fits-only-just"
SEVERITIES = ("warning",)
TITLE = "A run that fits by less than the plan may be off by"
REASON = (
    "The plan is held to 10 % of what is measured, and what other programs take changes while a "
    "run goes on. `train.worst_batch_first` finds before the first step whether it fits now."
)
SOURCE = "lorakit's own plan, held to 10 % of measured (docs/plan.md)"
EXAMPLE = "train: {micro_batch_tokens: 16384}   # needs 23.1 GiB of 24 GiB"
MEND = (
    "Make the change that the finding names, or end other programs that hold the device's memory."
)


def find(facts: Facts) -> Iterator[Finding]:
    need = need_of(facts)
    if need is None or not need.sure_limit < need.needed <= need.available:
        return
    message = f"the run {need.in_words()}; {smallest_fix(facts, need)}"
    yield Finding(ID, "warning", message, "base.model")
