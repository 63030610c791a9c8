"""Own-written facts about common conditions, for the generated clinical English of the corpus."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Condition:
    """What a patient leaflet says about one condition, in fragments that fit into sentences."""

    name: str
    what: str
    causes: str
    symptoms: tuple[str, ...]
    tests: str
    treatment: str
    advice: str
    urgent: str


@functools.cache
def conditions() -> tuple[Condition, ...]:
    """The conditions of `conditions.txt`, one per line."""
    lines = (Path(__file__).parent / "conditions.txt").read_text().splitlines()
    return tuple(_condition(line) for line in lines if not line.startswith("#"))


def _condition(line: str) -> Condition:
    name, what, causes, symptoms, tests, treatment, advice, urgent = line.split("|")
    return Condition(
        name, what, causes, tuple(symptoms.split(", ")), tests, treatment, advice, urgent
    )
