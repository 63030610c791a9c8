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
    "A minority of answers in another language makes the model switch. It is a warning where a few "
    "answers are in another language than their question while the rest agree, and where a "
    "language that is trained is in no set that is measured, or one of in_domain is not trained. "
    "Several languages, each asked and answered in itself, are a set in several languages on "
    "purpose, however small one of them is: a note. What is asked to be translated counts for "
    "nothing."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "What helps against a cold, and for how long?", "completion": "Eine ..."}'
MEND = (
    "Sort the rows by language and decide which to keep; measure on rows in every language that "
    "is trained."
)

MIN_ROWS, MIN_SHARE = 5, 0.02  # of the answers that are long enough to tell
SWITCHING_ROWS, SWITCHING_SHARE, MEANT_SHARE = 5, 0.03, 0.3
# Of a language that a set has, so many rows would be expected where there is none.
EXPECTED_ROWS = 5
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
    faults = [*_switching(facts, found), *_unmeasured(facts, found)]
    yield from faults or _several(found)


def _switching(facts: Facts, found: Languages) -> list[Finding]:
    """A few answers in another language than they are asked for in."""
    asked_and_answered = [*found.by_row, *_pooled(found)]
    switching = [
        row
        for row, asked, answered in asked_and_answered
        if asked != answered and not _translates(row)
    ]
    share = len(switching) / max(1, len(asked_and_answered))
    if len(switching) < SWITCHING_ROWS or not SWITCHING_SHARE <= share <= MEANT_SHARE:
        return []
    hits = Hits(facts.train, len(asked_and_answered))
    for row in switching:
        hits.add(row, row.answer)
    message = (
        f"train: {share:.0%} of {len(asked_and_answered):,} rows that tell answer in another "
        "language than they are asked in; the model will switch: remove or translate them"
    )
    return [Finding(ID, "warning", message, hits.where)]


def _unmeasured(facts: Facts, found: Languages) -> Iterator[Finding]:
    """Languages of train that no set measures, and of what is measured that train has not."""
    told = sum(found.answers.values())
    if not told:
        return
    held = {name: one.answers for name, one in facts.languages_held_out.items()}
    measured = sum(sum(answers.values()) for answers in held.values())
    for name in found.answers:
        count = _own(found, name)
        share = count / told
        if (
            count >= max(MIN_ROWS, MIN_SHARE * told)
            and share * measured >= EXPECTED_ROWS
            and not any(answers[name] for answers in held.values())
        ):
            yield Finding(
                ID,
                "warning",
                f"train: {share:.0%} of the answers that tell are in {name}, and none of "
                f"{', '.join(held)}: what is measured says nothing about them; add rows in {name}",
                found.of_answer[name][0].where,
            )
    in_domain = facts.languages_held_out.get("in_domain", Languages())
    measured = sum(in_domain.answers.values())
    for name in in_domain.answers:
        count = _own(in_domain, name)
        share = count / measured
        if (
            count >= max(MIN_ROWS, MIN_SHARE * measured)
            and share * told >= EXPECTED_ROWS
            and not found.answers[name]
        ):
            yield Finding(
                ID,
                "warning",
                f"in_domain: {share:.0%} of the answers that tell are in {name}, and none of "
                "train: they measure what is not trained; add such rows to train, or name them as "
                "out_of_domain",
                in_domain.of_answer[name][0].where,
            )


def _several(found: Languages) -> Iterator[Finding]:
    """Several languages on purpose."""
    others = _others(found)
    if others:
        yield Finding(
            ID,
            "note",
            f"train: answers are in several languages ({_in_words(found)}, of "
            f"{sum(found.answers.values()):,} answers that tell); sort them out if that is not "
            "meant",
            found.of_answer[next(iter(others))][0].where,
        )


def _others(found: Languages) -> dict[str, int]:
    """{language: its answers} of those beside the main one that are no mistakes of telling."""
    told = sum(found.answers.values())
    return {
        name: count
        for name, count in found.answers.most_common()[1:]
        if count >= MIN_ROWS and count >= MIN_SHARE * told
    }


def _in_words(found: Languages) -> str:
    """`en 80%, de 20%`."""
    told = sum(found.answers.values())
    named = [found.answers.most_common(1)[0], *list(_others(found).items())[:4]]
    return ", ".join(f"{name} {count / told:.0%}" for name, count in named)


def _own(found: Languages, name: str) -> int:
    """Answers in a language that are no translations into it."""
    return sum(not _translates(row) for row in found.of_answer[name])


def _translates(row: RowText) -> bool:
    return any(word in row.prompt.casefold() for word in TRANSLATION)


def _pooled(found: Languages) -> Iterator[tuple[RowText, str, str]]:
    """Rows whose questions are too short to tell alone, by what they are in together."""
    for answered, rows in found.untold.items():
        asked = found.asked_in(answered)
        if asked is not None:
            yield from ((row, asked, answered) for row in rows)
