"""The prompt gives the label away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText
from lorakit.lint.told import Hits

ID = "label-in-prompt"
SEVERITIES = ("warning", "note")
TITLE = "The prompt gives the label away"
REASON = (
    "If a field of the prompt holds the label and is right in nearly every row, the model "
    "learns to copy it, is measured on copying, and fails where the field is missing or not "
    "yet known. A list of all labels, or examples of others, is no such field: what stands "
    "there agrees with the answer no more often than by chance. A warning for a field that is "
    "set off (`queue: billing`, `<b>billing</b>`); a note for a word within a sentence, or where "
    "prompts ask to extract: the answer may have to be found there."
)
SOURCE = "practice; Kaufman et al., Leakage in Data Mining (doi 10.1145/2382577.2382579)"
EXAMPLE = '{"prompt": "[queue: billing] I was charged twice.\\nLabel:", "completion": "billing"}'
MEND = "Take the field out of the prompts, of the held-out sets too."

MAX_LABELS, LABEL_WORDS, MIN_ROWS_PER_LABEL = 50, 4, 10
MIN_ROWS, MIN_SHARE = 20, 0.2
RIGHT, ABOVE_CHANCE = 0.95, 0.3
MAX_CHARACTERS = 8_000
_SETS_OFF = frozenset("\0:=[({<>|\"'#/")
_TO_BE_FOUND = re.compile(
    r"\b(?:extract|copy|repeat|find|quote|mention|according|extrah|extrai|extrae)", re.I
)
_TOKEN = re.compile(r"\w+|[^\w\s]")

Place = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass
class _Field:
    """What stands at one place of the prompts: the words before and after it."""

    said: Counter[str] = field(default_factory=Counter)
    right: list[RowText] = field(default_factory=list)


def find(facts: Facts) -> Iterator[Finding]:
    rows = facts.train.chats
    labels = [_label(row.answer) for row in rows]
    counts = Counter(labels)
    if len(rows) < MIN_ROWS or len(counts) < 2 or not _are_labels(counts, len(rows)):
        return
    fields: dict[Place, _Field] = defaultdict(_Field)
    by_first: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for label in sorted(counts, key=len, reverse=True):
        by_first[label[0]].append(label)
    for row, answer in zip(rows, labels, strict=True):
        for place, said in _places(_tokens(row.prompt[:MAX_CHARACTERS]), by_first).items():
            if len(said) == 1:  # several labels at like places: a list, or examples
                fields[place].said.update(" ".join(label) for label in said)
                if said == {answer}:
                    fields[place].right.append(row)
    answers = Counter(" ".join(label) for label in labels)
    telling = [place for place in fields if _tells(fields[place], answers, len(rows))]
    if telling:
        place = max(telling, key=lambda one: (len(fields[one].right), len(one[0]), one))
        hits = Hits(facts.train, len(rows))
        for row in fields[place].right:
            hits.add(row, f"{' '.join(place[0])} {row.answer} {' '.join(place[1])}".strip())
        asked = sum(_TO_BE_FOUND.search(row.prompt) is not None for row in rows)
        is_set_off = any(one[0][-1:] and one[0][-1] in _SETS_OFF for one in telling)
        yield hits.finding(
            ID,
            "warning" if is_set_off and asked < 0.5 * len(rows) else "note",
            "have their own label in the prompt, at a place where it is nearly always right",
            "the model learns to copy it; take it out",
        )


def _are_labels(counts: Mapping[tuple[str, ...], int], total: int) -> bool:
    return (
        len(counts) <= MAX_LABELS
        and all(0 < len(label) <= LABEL_WORDS for label in counts)
        and total >= MIN_ROWS_PER_LABEL * len(counts)
    )


def _label(answer: str) -> tuple[str, ...]:
    """Its words; `Billing.` is billing."""
    return tuple(_tokens(answer.strip().strip(".,;:!?\"'")))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _places(
    tokens: Sequence[str], by_first: Mapping[str, Sequence[tuple[str, ...]]]
) -> dict[Place, set[tuple[str, ...]]]:
    """{words around: the labels that stand between such}; the longest label where several fit."""
    found: dict[Place, set[tuple[str, ...]]] = defaultdict(set)
    padded = ["\0", *tokens, "\0"]
    for i in range(1, len(padded) - 1):
        for label in by_first.get(padded[i], ()):
            end = i + len(label)
            if tuple(padded[i:end]) == label:
                for place in (
                    (tuple(padded[max(0, i - 1) : i]), tuple(padded[end : end + 1])),
                    (tuple(padded[max(0, i - 2) : i]), ()),
                    (tuple(padded[max(0, i - 3) : i]), ()),
                    ((), tuple(padded[end : end + 2])),
                ):
                    found[place].add(label)
                break
    return found


def _tells(one: _Field, answers: Counter[str], total: int) -> bool:
    """Whether a field is there in many rows, is nearly always right, and not by chance."""
    there = sum(one.said.values())
    if there < MIN_ROWS or there < MIN_SHARE * total or len(one.right) < RIGHT * there:
        return False
    by_chance = sum(one.said[label] / there * answers[label] / total for label in one.said)
    return len(one.right) / there >= by_chance + ABOVE_CHANCE
