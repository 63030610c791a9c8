"""Rows whose right answer a reward cannot read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText
from lorakit.tasks.code import has_cases
from lorakit.tasks.math import final_answer

ID = "reward-without-answer"
SEVERITIES = ("error", "warning")
TITLE = "Rows whose right answer a reward cannot read"
REASON = (
    "The rewards math and code hold a completion to the row's answer. Where that holds neither a "
    "formula nor a number, or no cases, every completion is wrong, so that the group has no "
    "variance and nothing is learned of its question. An error where it is so with every row."
)
SOURCE = "practice"
EXAMPLE = """\
train: {method: grpo}
grpo: {rewards: [math]}
data: {train: answers_in_words.jsonl}"""
MEND = (
    "Name the column with the right answer (data.columns: {answer: final}), or reward by another "
    "scorer."
)

READS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "math": ("neither a formula nor a number", lambda text: final_answer(text) is not None),
    "code": ("no cases", has_cases),
}


def find(facts: Facts) -> Iterator[Finding]:
    if not facts.is_policy:
        return
    for index, reward in enumerate(facts.recipe.grpo.named_rewards):
        if reward.scorer not in READS:
            continue
        lacks, can_read = READS[reward.scorer]
        without: list[RowText] = [row for row in facts.train if not can_read(row.answer)]
        if not without:
            continue
        share = len(without) / len(facts.train)
        message = (
            f"train: the answers of {share:.0%} of the rows hold {lacks}, so reward "
            f"{reward.scorer} is 0 for them; first {without[0].where}"
        )
        where = f"grpo.rewards.{index}"
        if len(without) == len(facts.train):
            yield Finding(ID, "error", message, where)
        else:
            yield Finding(ID, "warning", message, where)
