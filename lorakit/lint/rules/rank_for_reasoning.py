"""A reasoning task below rank 32."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding, Severity
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText

ID = "rank-for-reasoning"
SEVERITIES = ("warning", "note")
TITLE = "A reasoning task below rank 32"
REASON = (
    "Long chains of thought are a larger change than a style or a format: ranks of 32 to 64 "
    "are the usual choice for them, 16 for instructions. Rows count as reasoning if they have "
    "thinking, a marked final answer (#### or \\boxed), or numbered steps with sums; with "
    "train.method grpo all do that are rewarded by math or code. Below 16, "
    "where instructions begin, it is a warning."
)
SOURCE = "practice; Tina (arXiv 2504.15777): rank 32 for reasoning by LoRA"
EXAMPLE = """\
data: {train: gsm8k.jsonl}
adapter: {r: 8}"""
MEND = "Set adapter.r: 32 (lora_alpha: 64)."

USUAL_RANK, INSTRUCTION_RANK = 32, 16
MIN_SHARE = 0.5
MIN_WORDS = 12  # of an answer that shows its work
_FINAL = regex.compile(r"^#### |\\boxed\{|</think>|^(?:\*\*)?step 1\b", regex.M | regex.I)
_SUM = regex.compile(r"\d\s*[-+*/\u00d7\u00f7]\s*\$?\d[\d.,]*\s*=")
MIN_SUMS = 2
REWARDED = ("math", "code")  # what takes reasoning, whatever the right answers look like


def find(facts: Facts) -> Iterator[Finding]:
    adapter = facts.recipe.adapter
    if adapter.path is not None or adapter.r >= USUAL_RANK or adapter.rank_pattern:
        return
    if facts.is_policy and any(one.scorer in REWARDED for one in facts.recipe.grpo.named_rewards):
        count = len(facts.train)
    else:
        count = sum(map(_reasons, facts.train))
    if count >= MIN_SHARE * len(facts.train):
        message = (
            f"train: {count / len(facts.train):.0%} of the rows reason in steps, with rank "
            f"{adapter.r}; "
            f"for reasoning {USUAL_RANK} to 64 are usual"
        )
        severity: Severity = "warning" if adapter.r < INSTRUCTION_RANK else "note"
        yield Finding(ID, severity, message, "adapter.r")


def _reasons(row: RowText) -> bool:
    if row.thinking:
        return True
    if len(row.answer.split()) < MIN_WORDS:
        return False
    return _FINAL.search(row.answer) is not None or len(_SUM.findall(row.answer)) >= MIN_SUMS
