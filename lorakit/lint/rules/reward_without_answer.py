"""Rows whose right answer a reward cannot read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText
from lorakit.recipe.reward_names import OF_TOKENS, is_function
from lorakit.tasks.code import has_cases
from lorakit.tasks.math import final_answer

ID = "reward-without-answer"
SEVERITIES = ("error", "warning")
TITLE = "Rows whose right answer a reward cannot read"
REASON = (
    "Most scorers hold a completion to the row's answer. Where there is none, or for the rewards "
    "math and code one that holds neither a formula nor a number, or no cases, every completion is "
    "wrong, so that the group has no variance and nothing is learned of its question. An error "
    "where it is so with every row."
)
SOURCE = "practice"
EXAMPLE = """\
train: {method: grpo}
grpo: {rewards: [math]}
data: {train: answers_in_words.jsonl}"""
MEND = (
    "Name the column with the right answer (data.columns: {answer: final}), or reward by another "
    "scorer or a function of your own, which is given every column."
)

READS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "math": ("neither a formula nor a number", lambda text: final_answer(text) is not None),
    "code": ("no cases", has_cases),
}
READS_ALL: tuple[str, Callable[[str], bool]] = ("nothing", lambda text: bool(text.strip()))
# They look at the completion alone.
WITHOUT_ANSWER = ("regex", "json_schema", "tags")


def find(facts: Facts) -> Iterator[Finding]:
    if not facts.is_policy:
        return
    for index, reward in enumerate(facts.recipe.grpo.named_rewards):
        if is_function(reward.scorer) or reward.scorer in (*WITHOUT_ANSWER, *OF_TOKENS):
            continue
        lacks, can_read = READS.get(reward.scorer, READS_ALL)
        without: list[RowText] = [row for row in facts.train if not can_read(row.answer)]
        if not without:
            continue
        share = len(without) / len(facts.train)
        message = (
            f"train: the answers of {share:.0%} of the rows hold {lacks}, so reward "
            f"{reward.scorer} is 0 for them; first {without[0].where}. Name the column with the "
            "right answer (data.columns: {answer: ...}), or take another reward"
        )
        where = f"grpo.rewards.{index}"
        if len(without) == len(facts.train):
            yield Finding(ID, "error", message, where)
        else:
            yield Finding(ID, "warning", message, where)
