"""One label in several spellings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits
from lorakit.lint.words import normalized

ID = "labels-spelled-differently"
SEVERITIES = ("warning",)
TITLE = "One label in several spellings"
REASON = (
    "`Yes`, `yes` and `yes.` are different tokens: the model spreads its probability over "
    "them, and a scorer that compares texts counts two of them as wrong."
)
SOURCE = "practice"
EXAMPLE = """\
{"prompt": "...", "completion": "positive"}
{"prompt": "...", "completion": "Positive."}"""
MEND = "Write every label one way."

MAX_LABELS = 50
LABEL_WORDS = 4
MIN_ROWS_PER_LABEL = 10
MIN_SHARE = 0.01


def find(facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.train.chats if row.answer.strip()]
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        label = normalized(row.answer)
        if len(label.split()) > LABEL_WORDS:
            return  # answers in words of their own
        spellings[label][row.answer] += 1
        if len(spellings) > MAX_LABELS:
            return
    if len(rows) < MIN_ROWS_PER_LABEL * len(spellings):
        return
    usual = {label: counts.most_common(1)[0][0] for label, counts in spellings.items()}
    hits = Hits(facts.train, len(rows))
    for row in rows:
        expected = usual[normalized(row.answer)]
        if row.answer != expected:
            hits.add(row, f"{row.answer!s} instead of {expected}")
    if hits.share >= MIN_SHARE:
        yield hits.finding(
            ID, "warning", "spell a label in another way than most", "write each one way"
        )
