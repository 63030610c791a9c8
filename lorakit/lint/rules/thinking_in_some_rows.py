"""Thinking in some rows only."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "thinking-in-some-rows"
SEVERITIES = ("note",)
TITLE = "Thinking in some rows only"
REASON = (
    "Rows with and without thinking teach to think by chance. Sets that switch it by a system "
    "message or by the template are such a mixture on purpose."
)
SOURCE = "practice; ms-swift#4939, LLaMA-Factory#10773"
EXAMPLE = '{"messages": [..., {"role": "assistant", "reasoning_content": "...", ...}]}   # in half'
MEND = "Give all rows thinking, or say in the prompt when it is wanted."

FEW, MOST = 0.02, 0.98


def find(facts: Facts) -> Iterator[Finding]:
    rows = facts.train.chats
    hits = Hits(facts.train, len(rows))
    for row in rows:
        if row.thinking or "<think>" in row.answer:
            hits.add(row)
    if rows and FEW < hits.share < MOST:
        yield hits.finding(
            ID,
            "note",
            "think before they answer, the others do not",
            "say in the prompt when it is wanted",
        )
