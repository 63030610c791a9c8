"""One answer in most rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits
from lorakit.lint.words import normalized

ID = "one-answer-dominates"
SEVERITIES = ("warning", "note")
TITLE = "One answer in most rows"
REASON = (
    "If most rows have the same answer, giving it always is the cheapest way to a low loss. "
    "For classes a note from 80 %, a warning from 95 %; for a whole sentence from a fifth of "
    "the rows on, where it is a canned reply."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "...", "completion": "I do not know."}   # in every third row'
MEND = "Balance the rows, or remove the canned reply."

MIN_ROWS = 50
SENTENCE = 6  # words from which an answer is no label
SENTENCE_SHARE, LABEL_SHARE, SOLE_LABEL_SHARE = 0.2, 0.8, 0.95


def find(facts: Facts) -> Iterator[Finding]:
    rows = facts.train.chats
    if facts.is_policy:  # prompts alone have none
        rows = tuple(row for row in rows if row.answer)
    if len(rows) < MIN_ROWS:
        return
    # Of several turns all count: dialogues may well end alike.
    answers = [normalized("\n".join(row.answers)) for row in rows]
    most, count = Counter(answers).most_common(1)[0]
    share, is_sentence = count / len(rows), len(most.split()) >= SENTENCE
    if is_sentence and len(set(answers)) <= 0.1 * len(rows):
        is_sentence = False  # sentences that serve as labels
    if share < (SENTENCE_SHARE if is_sentence else LABEL_SHARE):
        return
    hits = Hits(facts.train, len(rows))
    for row, answer in zip(rows, answers, strict=True):
        if answer == most:
            hits.add(row, row.answer)
    severity = "warning" if is_sentence or share >= SOLE_LABEL_SHARE else "note"
    yield hits.finding(
        ID,
        severity,  # type: ignore[arg-type]
        "have one and the same answer",
        "giving it always is the cheapest way to a low loss; balance the rows",
    )
