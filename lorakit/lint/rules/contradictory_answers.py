"""Different answers to one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.near import groups_by_prompt
from lorakit.lint.row_texts import RowText
from lorakit.lint.told import Hits, where_they_differ
from lorakit.lint.trifles import NEGATIONS
from lorakit.lint.words import words

ID = "contradictory-answers"
SEVERITIES = ("warning", "note")
TITLE = "Different answers to one question"
REASON = (
    "The model is pulled both ways and learns neither. Sure are labels, numbers and yes or no "
    "that differ under the very same prompt, and sentences that differ in a number or a "
    "negation alone. Other differing answers are a note: several good answers to one question "
    "are no contradiction."
)
SOURCE = (
    "practice; confident learning (arXiv 1911.00068): label errors in the most used sets are "
    "3 % on average"
)
EXAMPLE = """\
{"prompt": "Is aspirin an NSAID?", "completion": "Yes."}
{"prompt": "Is aspirin an NSAID?", "completion": "No."}"""
MEND = "Decide for one answer, or put what makes the difference into the prompt."

SHORT = 5  # words of an answer that is a label, a name or a number
MIN_SHARE, MIN_GROUPS = 0.005, 3
MAX_COMPARED = 10  # different answers of one question
YES_NO = frozenset({"yes", "no", "true", "false", "maybe", "ja", "nein", "oui", "non"})
OPEN = frozenset(
    (  # noqa: SIM905
        "write name list give generate create suggest tell describe imagine"
    ).split()
)
# GSM8K's mark, LaTeX's, and a last line such as `A: 18` or `The answer is 18.`.
_FINAL = regex.compile(
    r"^#### *(.+)$|\\boxed\{([^{}]*)\}"
    r"|^(?i:(?:a|(?:final )?answer):|the (?:final )?answer is) *(-?\$?\d[\d,.]*%?)\s*\Z",
    regex.M,
)


def find(facts: Facts) -> Iterator[Finding]:
    sure, other = Hits(facts.train), Hits(facts.train)
    num_sure = 0
    for group in groups_by_prompt(facts.train.chats):
        by_answer = {tuple(words(row.answer)): row for row in reversed(group)}
        if len(by_answer) < 2:
            continue
        answers = sorted(by_answer.values(), key=lambda row: row.index)[:MAX_COMPARED]
        if _end_alike(answers):
            continue
        pair = next((p for p in combinations(answers, 2) if _contradict(*p)), None)
        num_sure += pair is not None
        hits, shown = (sure, pair) if pair else (other, (answers[0], answers[1]))
        for row in group:
            hits.add(row, where_they_differ(shown[0].answer, shown[1].answer))
    many = num_sure >= MIN_GROUPS or sure.share >= MIN_SHARE
    for hits, severity, what in (
        (sure, "warning" if many else "note", "contradict another answer to the same question"),
        (other, "note", "answer a question that others answer differently"),
    ):
        if hits.count:
            yield hits.finding(
                ID,
                severity,  # type: ignore[arg-type]
                what,
                "decide for one answer, or say in the prompt what makes the difference",
            )


def _contradict(one: RowText, other: RowText) -> bool:
    if one.thinking or other.thinking:  # what follows from it may be worded in many ways
        return False
    is_open = bool(OPEN & set(words(one.question)[:6]))  # such a task has many answers
    finals = [_finals(row) for row in (one, other)]
    if all(finals) and not is_open:  # the way there may be worded in many ways
        return _number(finals[0][-1]) != _number(finals[1][-1])
    a, b = words(one.answer), words(other.answer)
    if a[:1] != b[:1] and {*a[:1], *b[:1]} <= YES_NO:
        return True
    if is_open:
        return False
    only_a, only_b = Counter(a) - Counter(b), Counter(b) - Counter(a)
    if max(len(a), len(b)) <= SHORT:  # `Paris` and `Paris, France` are one answer
        return bool(only_a and only_b)
    differing = [*only_a, *only_b]
    telling = all(word in NEGATIONS or word.isdecimal() for word in differing)
    return bool(differing) and telling


def _end_alike(answers: Sequence[RowText]) -> bool:
    """Several ways to one final answer: good training, and no contradiction."""
    finals = [_finals(row) for row in answers]
    return all(finals) and len({_number(final[-1]) for final in finals}) == 1


def _number(text: str) -> float | str:
    """A final answer as it compares: 9.0 is 9, and 50% is 0.5."""
    plain = text.strip().strip("$.").replace(",", "")
    try:
        return float(plain[:-1]) / 100 if plain.endswith("%") else float(plain)
    except ValueError:
        return plain.casefold()


def _finals(row: RowText) -> list[str]:
    return [match[1] or match[2] or match[3] or "" for match in _FINAL.finditer(row.answer)]
