"""System messages differ between sets or rows."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "system-message-differs"
SEVERITIES = ("warning", "note")
TITLE = "System messages differ between sets or rows"
REASON = (
    "A model tuned with a system message answers as tuned when it is given that message. "
    "Measured without it (or with it, trained without), the figure is that of another "
    "situation. A note where within train some rows have one and others none."
)
SOURCE = "practice"
EXAMPLE = 'train: rows with "You are a triage nurse."   in_domain: rows without a system message'
MEND = "Set data.system for rows without one, and serve with the same."

ALMOST_ALL, ALMOST_NONE = 0.95, 0.05


def find(facts: Facts) -> Iterator[Finding]:
    train = facts.train
    if not train.chats:
        return
    share = sum(bool(row.system) for row in train.chats) / len(train.chats)
    for name in ("validation", "in_domain"):
        sample = facts.held_out.get(name)
        if sample is None or not sample.chats:
            continue
        other = sum(bool(row.system) for row in sample.chats) / len(sample.chats)
        if min(share, other) <= ALMOST_NONE and max(share, other) >= ALMOST_ALL:
            yield Finding(
                ID,
                "warning",
                f"{name}: {other:.0%} of its rows have a system message, of train {share:.0%}: "
                "what is "
                "measured is not what was trained; set data.system",
                sample.chats[0].where,
            )
    if ALMOST_NONE < share < ALMOST_ALL:
        without = next(row for row in train.chats if not row.system)
        yield Finding(
            ID,
            "note",
            f"train: {share:.0%} of the rows have a system message, the others none; data.system "
            "fills "
            "those in if they should",
            without.where,
        )
