"""An answer that goes on with the user's next turn."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "answer-goes-on"
SEVERITIES = ("warning",)
TITLE = "An answer that goes on with the user's next turn"
REASON = (
    "Answers with `User:` or `Human:` at the start of a line were cut out of a dialogue "
    "wrongly: the model learns to ask itself the next question instead of stopping."
)
SOURCE = "practice; complaints about models that never stop: trl#2059, LLaMA-Factory#7454"
EXAMPLE = '{"prompt": "Hi", "completion": "Hello!\nUser: How are you?\nAssistant: Fine."}'
MEND = "Split those rows into turns (messages)."

MIN_SHARE, MIN_ROWS = 0.01, 2
_NEXT_TURN = regex.compile(r"\n[ \t]*(?:###[ \t]*)?(?:User|Human|<\|user\|>)[ \t]*:\s", regex.I)
_ASKED_FOR = regex.compile(
    r"\b(?:dialogu?e|conversation|transcript|script|chat|interview|user stor)", regex.I
)


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train.chats:
        if any(map(_NEXT_TURN.search, row.answers)) and not _ASKED_FOR.search(row.prompt):
            hits.add(row, row.answer)
    if hits.count >= MIN_ROWS and hits.share >= MIN_SHARE:
        yield hits.finding(
            ID,
            "warning",
            "answer and then go on with the user's next turn",
            "the model will ask itself; split them into messages",
        )
