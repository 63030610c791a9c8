"""Several languages in the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.languages import NAMES, Languages
from lorakit.lint.row_texts import RowText
from lorakit.lint.told import Hits

ID = "languages-mixed"
SEVERITIES = ("warning", "note")
TITLE = "Several languages in the answers"
REASON = (
    "A model learns which language to answer in. It is a warning where a few answers are in "
    "another language than their question while the rest agree; where questions of one language, "
    "under one system message, are answered now in one language and now in another, so that "
    "nothing tells the model which; and where a language that is trained is in no set that is "
    "measured, or one of in_domain is not trained. Several languages, each asked and answered in "
    "itself, are a note, however small one of them is: some tens of rows in other languages do "
    "not harm, they teach to answer in the language of the question. What is asked to be "
    "translated, or asks for the language by its name, counts for nothing."
)
SOURCE = (
    "practice; language confusion: Marchisio et al. (arXiv 2406.20052); a few rows help: Shaham "
    "et al. (arXiv 2401.01854)"
)
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
    """Answers in another language than they are asked for in: a few of all, or some of those that
    are asked for in one language."""
    pairs = [
        (row, asked, answered)
        for row, asked, answered in (*found.by_row, *_pooled(found))
        if asked == answered or not (_translates(row) or _is_asked_for(answered, row))
    ]
    switching = [row for row, asked, answered in pairs if asked != answered]
    share = len(switching) / max(1, len(pairs))
    if len(switching) < SWITCHING_ROWS or share < SWITCHING_SHARE:
        return []
    if share <= MEANT_SHARE:
        message = (
            f"train: {share:.0%} of {len(pairs):,} rows that tell answer in another language than "
            "they are asked in; the model will switch: remove or translate them"
        )
        return [_at(facts, switching, len(pairs), message)]
    return [
        _at(
            facts,
            others,
            count,
            f"train: {len(others):,} of {count:,} rows that are asked in {asked} are answered in "
            f"another language than the rest ({main}), and neither question nor system message "
            "says in which; the model will switch: say it there, or remove or translate them",
        )
        for asked, main, others, count in _undecided(pairs)
    ]


def _undecided(
    pairs: Sequence[tuple[RowText, str, str]],
) -> Iterator[tuple[str, str, list[RowText], int]]:
    """Of questions of one language under one system message, that are answered in several: that
    language, the one most are answered in, the rows of the others, and how many rows there are."""
    asked_alike: dict[tuple[str, str], list[tuple[RowText, str]]] = {}
    for row, asked, answered in pairs:
        asked_alike.setdefault((asked, row.system), []).append((row, answered))
    for (asked, _), rows in asked_alike.items():
        main = Counter(answered for _, answered in rows).most_common(1)[0][0]
        others = [row for row, answered in rows if answered != main]
        if len(others) >= max(SWITCHING_ROWS, SWITCHING_SHARE * len(rows)):
            yield asked, main, others, len(rows)


def _at(facts: Facts, rows: Sequence[RowText], looked_at: int, message: str) -> Finding:
    hits = Hits(facts.train, looked_at)
    for row in rows:
        hits.add(row, row.answer)
    return Finding(ID, "warning", message, hits.where)


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


def _is_asked_for(language: str, row: RowText) -> bool:
    """Whether its prompt, or its system message, names the language."""
    prompt = row.prompt.casefold()
    return any(name in prompt for name in NAMES.get(language, ()))


def _pooled(found: Languages) -> Iterator[tuple[RowText, str, str]]:
    """Rows whose questions are too short to tell alone, by what they are in together."""
    for answered, rows in found.untold.items():
        asked = found.asked_in(answered)
        if asked is not None:
            yield from ((row, asked, answered) for row in rows)
