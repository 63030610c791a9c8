"""Several languages in the answers."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.languages import Languages
from lorakit.lint.row_texts import RowText
from lorakit.lint.told import Hits

ID = "languages-mixed"
SEVERITIES = ("warning", "note")
TITLE = "Several languages in the answers"
REASON = (
    "A minority of rows in another language makes the model switch. Sets in several languages "
    "on purpose are fine, so this is a note; it is a warning where answers are in another "
    "language than their question in a few rows, while the others answer in the language of "
    "the question."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "What helps against a cold, and for how long?", "completion": "Eine ..."}'
MEND = "Sort the rows by language and decide which to keep."

MIN_ROWS, MIN_SHARE = 5, 0.02  # of the answers that are long enough to tell
SWITCHING_ROWS, SWITCHING_SHARE, MEANT_SHARE = 5, 0.03, 0.3
TRANSLATION = (
    "translat",
    "übersetz",
    "tradu",
    "traduz",
    " in english",
    " in french",
    " in german",
    " in spanish",
)


def find(facts: Facts) -> Iterator[Finding]:
    found = facts.languages
    told = sum(found.answers.values())
    others = [
        (name, count)
        for name, count in found.answers.most_common()[1:]
        if count >= MIN_ROWS and count >= MIN_SHARE * told
    ]
    asked_and_answered = [*found.by_row, *_pooled(found)]
    switching = [
        row
        for row, asked, answered in asked_and_answered
        if asked != answered and not any(word in row.prompt.casefold() for word in TRANSLATION)
    ]
    share = len(switching) / max(1, len(asked_and_answered))
    if len(switching) >= SWITCHING_ROWS and SWITCHING_SHARE <= share <= MEANT_SHARE:
        hits = Hits(facts.train, len(asked_and_answered))
        for row in switching:
            hits.add(row, row.answer)
        yield Finding(
            ID,
            "warning",
            f"train: {share:.0%} of {len(asked_and_answered):,} rows that tell answer in another "
            "language than "
            "they are asked in; the model will switch: remove or translate them",
            hits.where,
        )
    elif others:
        main, most = found.answers.most_common(1)[0]
        parts = ", ".join(
            f"{name} {count / told:.0%}" for name, count in [(main, most), *others[:4]]
        )
        rows = found.of_answer[others[0][0]]
        yield Finding(
            ID,
            "note",
            f"train: answers are in several languages ({parts}, of {told:,} answers that tell); "
            "sort them "
            "out if that is not meant",
            rows[0].where,
        )


def _pooled(found: Languages) -> Iterator[tuple[RowText, str, str]]:
    """Rows whose questions are too short to tell alone, by what they are in together."""
    for answered, rows in found.untold.items():
        asked = found.asked_in(answered)
        if asked is not None:
            yield from ((row, asked, answered) for row in rows)
