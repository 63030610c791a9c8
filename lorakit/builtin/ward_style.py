"""The house style of the built-in data: five sections, one line each, in one register.

Noun phrases without a full stop, no first person, no article before a complaint or an
assessment, no age, vital signs in a fixed order with fixed units, the same words at the start of
each section, `not stated` for what was not said.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

HEADINGS = ("Reason", "Findings", "Assessment", "Plan", "Safety")
NOT_STATED = "not stated"
# How the house begins each section that says something.
OPENINGS = {
    "Reason": "seen for",
    "Findings": "found",
    "Assessment": "treated as",
    "Plan": "given",
    "Safety": "return at once if",
}
# Of the 119 orders besides the default; as many as a set of evaluation asks for.
HELD_OUT_ORDERS = 30
_ARTICLE = re.compile(r"^an? ")
# Vital sign -> how the house writes it, in the house's order.
VITAL_SIGNS = {
    "blood pressure": "BP {} mmHg",
    "pulse": "pulse {}/min",
    "temperature": "temperature {} °C",
    "saturation": "oxygen saturation {}%",
    "breathing": "respiratory rate {}/min",
}


@dataclass(frozen=True)
class Case:
    """What is known about one patient; what is empty was not said.

    Attributes:
        sex: `man` or `woman`.
        age: years.
        complaints: one or two.
        lasting: such as `for 3 days` or `since yesterday`.
        vitals: {key of `VITAL_SIGNS`: number}, in any order.
        assessment: the problem, as its topic names it.
        plan: a treatment, and when the patient is seen again.
        signs: one or two on which to come back.
    """

    sex: str
    age: int
    complaints: tuple[str, ...]
    lasting: str
    vitals: dict[str, str]
    assessment: str
    plan: tuple[str, ...]
    signs: tuple[str, ...]


def house_note(case: Case, order: tuple[str, ...] = HEADINGS) -> str:
    """The note in the house style, its sections in `order`."""
    reason = " and ".join(bare(complaint) for complaint in case.complaints)
    sections = {
        "Reason": f"{reason} {case.lasting}".strip(),
        "Findings": ", ".join(
            form.format(case.vitals[sign])
            for sign, form in VITAL_SIGNS.items()
            if sign in case.vitals
        ),
        "Assessment": bare(case.assessment),
        "Plan": ", ".join(case.plan),
        "Safety": " or ".join(case.signs),
    }
    return "\n".join(f"{heading}: {_section(heading, sections[heading])}" for heading in order)


def _section(heading: str, content: str) -> str:
    return f"{OPENINGS[heading]} {content}" if content else NOT_STATED


def bare(noun: str) -> str:
    """The noun phrase without its article."""
    return _ARTICLE.sub("", noun)


def section_orders(seed: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The orders that training asks for and those that only evaluation does; never the default."""
    others = [order for order in itertools.permutations(HEADINGS) if order != HEADINGS]
    random.Random(f"{seed}/orders").shuffle(others)
    return others[:-HELD_OUT_ORDERS], others[-HELD_OUT_ORDERS:]
