"""Own-written facts about the topics of the ward messages: complaints, plans and signs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Topic:
    """What may be said about patients with one problem.

    Attributes:
        name: the problem, with its article where it has one.
        sexes: `man`, `woman` or both.
        ages: youngest and oldest in years.
        durations: shortest and longest, in `unit`.
        unit: `hours`, `days`, `weeks` or `months`.
        vitals: which vital signs are out of their normal range, see `ward_cases`.
        complaints, plans, signs: noun phrases, treatments and clauses that fit after `if`; one of
            `{a/b}` is to be drawn.
    """

    name: str
    sexes: tuple[str, ...]
    ages: tuple[int, int]
    durations: tuple[int, int]
    unit: str
    vitals: frozenset[str]
    complaints: tuple[str, ...]
    plans: tuple[str, ...]
    signs: tuple[str, ...]


def trained_topics() -> tuple[Topic, ...]:
    """The topics of the training and the in-domain set."""
    return _topics()["trained"]


def unseen_topics() -> tuple[Topic, ...]:
    """The topics of the out-of-domain set; no complaint, drug or sign of theirs is trained."""
    return _topics()["unseen"]


@functools.cache
def _topics() -> dict[str, tuple[Topic, ...]]:
    lines = (Path(__file__).parent / "ward_topics.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.partition("|") for line in lines if not line.startswith("#")]
    return {
        name: tuple(_topic(rest) for row_set, _, rest in rows if row_set == name)
        for name in ("trained", "unseen")
    }


def _topic(line: str) -> Topic:
    name, who, how_long, vitals, *items = line.split("|")
    sex, _, ages = who.partition(" ")
    durations, _, unit = how_long.partition(" ")
    complaints, plans, signs = (tuple(text.split("; ")) for text in items)
    return Topic(
        name=name,
        sexes=("man", "woman") if sex == "any" else (sex,),
        ages=_bounds(ages),
        durations=_bounds(durations),
        unit=unit,
        vitals=frozenset(vitals.split()) - {"normal"},
        complaints=complaints,
        plans=plans,
        signs=signs,
    )


def _bounds(text: str) -> tuple[int, int]:
    low, high = text.split("-")
    return int(low), int(high)
