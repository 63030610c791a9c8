"""User and assistant have each other's role in some chats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.roles import fit_of_roles
from lorakit.lint.row_texts import RowText
from lorakit.lint.told import Hits

ID = "roles-swapped"
SEVERITIES = ("warning",)
TITLE = "User and assistant have each other's role in some chats"
REASON = (
    "Where the roles are exchanged the user's lines are trained, and the model learns to ask "
    "instead of answering. Seen by the words that each role says in the other chats: told only "
    "where these tell the roles apart in nearly all chats, and some fit far better exchanged. "
    "Of single questions with answers nothing is said: a set may hold a task in both directions."
)
SOURCE = "practice; Maron, Automatic Indexing (doi 10.1145/321075.321084), for naive Bayes"
EXAMPLE = """\
{"messages": [{"role": "assistant", "content": "Hi, my parcel has not come."},
  {"role": "user", "content": "I am sorry. May I have the order number?"}, ...]}"""
MEND = "Exchange the roles in those chats."

MIN_CHATS, MAX_CHATS = 50, 5_000
MIN_TURNS = 3
CLEAR = 5.0  # nats: 150 times likelier
TOLD_APART = 0.9
MIN_ROWS, MIN_SHARE = 5, 0.02


def find(facts: Facts) -> Iterator[Finding]:
    chats = [row for row in facts.train.chats if _is_dialogue(row)]
    chats = chats[:: max(1, -(-len(chats) // MAX_CHATS))]
    if len(chats) < MIN_CHATS:
        return
    fit = fit_of_roles(chats)
    if np.mean(np.abs(fit) > CLEAR) < TOLD_APART:
        return  # both speak alike
    hits = Hits(facts.train, len(chats))
    for row, one in zip(chats, fit, strict=True):
        if one < -CLEAR:
            hits.add(row, next(text for role, text in row.turns if role == "assistant"))
    if hits.count >= MIN_ROWS and hits.share >= MIN_SHARE:
        yield hits.finding(
            ID,
            "warning",
            "sound as if user and assistant had each other's role",
            "the user's lines are trained; exchange the roles",
        )


def _is_dialogue(row: RowText) -> bool:
    """Of several turns, by these two alone but for a system message."""
    roles = [role for role, _ in row.turns if role not in ("system", "developer")]
    return len(roles) >= MIN_TURNS and set(roles) == {"user", "assistant"} and not row.has_calls
