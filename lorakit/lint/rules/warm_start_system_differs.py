"""The warm start trains with a system message and the policy is asked without, or another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText
from lorakit.lint.rules.system_message_differs import ALMOST_ALL, ALMOST_NONE
from lorakit.lint.told import quoted

ID = "warm-start-system-differs"
SEVERITIES = ("warning", "note")
TITLE = "The questions have another system message than the warm start's rows"
REASON = (
    "What a warm start teaches (a format, a way to reason) hangs on the prompt it was taught "
    "under. Where the questions of the policy have a system message and its rows none, or the "
    "other way round, the policy begins from what the base does there, rewards are rarer, and the "
    "warm start was partly for nothing. A note where both have one and the texts differ."
)
SOURCE = (
    "practice; TRL's SFT and GRPO render rows as they are, so that the same message has to stand "
    "in both"
)
EXAMPLE = """\
train: {method: grpo}
data: {train: questions_with_system.jsonl}
warm_start: {train: traces_without.jsonl}"""
MEND = (
    "Set data.system, which both stages give to rows without a system message, or write the same "
    "message into both files."
)


def find(facts: Facts) -> Iterator[Finding]:
    traces = facts.warm_start
    if traces is None or not traces.chats or not facts.train.chats:
        return
    taught, asked = _share(traces.chats), _share(facts.train.chats)
    where = traces.chats[0].where
    if min(taught, asked) <= ALMOST_NONE and max(taught, asked) >= ALMOST_ALL:
        yield Finding(
            ID,
            "warning",
            f"{taught:.0%} of the warm start's rows have a system message, of the questions "
            f"{asked:.0%}: what it teaches is taught under another prompt than is asked; set "
            "data.system, or write the same message into both",
            where,
        )
    elif min(taught, asked) >= ALMOST_ALL:
        usual, of_questions = _usual(traces.chats), _usual(facts.train.chats)
        if usual and of_questions and usual != of_questions:
            yield Finding(
                ID,
                "note",
                f"the warm start's rows have the system message {quoted(usual)}, the questions "
                f"{quoted(of_questions)}: what it teaches hangs on its prompt",
                where,
            )


def _share(chats: tuple[RowText, ...]) -> float:
    return sum(bool(row.system) for row in chats) / len(chats)


def _usual(chats: tuple[RowText, ...]) -> str:
    """The system message of almost all; empty where there is none such."""
    ((text, count),) = Counter(row.system.strip() for row in chats).most_common(1)
    return text if count >= ALMOST_ALL * len(chats) else ""
