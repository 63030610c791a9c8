"""Drawing a patient: a topic's facts with fresh values, and now and then one that nobody told."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

from lorakit.builtin.ward_style import VITAL_SIGNS, Case
from lorakit.builtin.ward_topics import Topic

CHILD = 12  # years; up to here the normal values are a child's
_TWO_COMPLAINTS, _TWO_SIGNS, _SEEN_AGAIN = 0.35, 0.2, 0.25
_NO_DURATION, _OWN_ORDER = 0.08, 0.25
# The fact that nobody told, and how often; mostly everything was told.
_UNTOLD = {"": 22, "complaints": 1, "vitals": 2, "assessment": 2, "plan": 2, "signs": 2}
_NOTHING: dict[str, dict[str, Any]] = {
    "": {},
    "complaints": {"complaints": (), "lasting": ""},
    "vitals": {"vitals": {}},
    "assessment": {"assessment": ""},
    "plan": {"plan": ()},
    "signs": {"signs": ()},
}
# Flag of a topic -> the sign that is then out of range, and its lowest and highest value.
_OUT_OF_RANGE = {
    "fever": ("temperature", 381, 397),
    "fast": ("pulse", 101, 118),
    "oxygen": ("saturation", 91, 94),
    "breathing": ("breathing", 21, 25),
    "pressure": ("blood pressure", 160, 178),
}
_NORMAL = {
    "temperature": (362, 374),
    "pulse": (58, 96),
    "saturation": (95, 99),
    "breathing": (12, 18),
    "blood pressure": (106, 146),
}
_NORMAL_CHILD = _NORMAL | {"pulse": (78, 108), "breathing": (18, 23), "blood pressure": (92, 112)}
_SINCE = {"hours": "since this morning", "days": "since yesterday"}


def draw_untold(rng: random.Random) -> str:
    """The fact of a case that nobody told, or nothing."""
    return rng.choices(tuple(_UNTOLD), tuple(_UNTOLD.values()))[0]


def draw_case(
    rng: random.Random, topic: Topic, *, untold: str, seen_again: str, brief: bool = False
) -> Case:
    """One patient with this topic's problem.

    Args:
        untold: what `draw_untold` gave.
        seen_again: how the plan names the next visit, such as `review`.
        brief: one complaint, one sign, two or three vital signs, for a message that
            has more to say.
    """
    age = rng.randint(*topic.ages)
    case = Case(
        sex=rng.choice(topic.sexes),
        age=age,
        complaints=_one_or_two(rng, topic.complaints, 0 if brief else _TWO_COMPLAINTS),
        lasting=_lasting(rng, topic),
        vitals=_vitals(rng, topic.vitals, age, (3, 2, 0) if brief else (3, 3, 2)),
        assessment=topic.name,
        plan=_plan(rng, topic, seen_again),
        signs=_one_or_two(rng, topic.signs, 0 if brief else _TWO_SIGNS),
    )
    return replace(case, **_NOTHING[untold])


def drawn(rng: random.Random, text: str) -> str:
    """The text with one of every `{a/b}`."""
    return re.sub(r"\{([^}]*)\}", lambda match: rng.choice(match[1].split("/")), text)


def _one_or_two(rng: random.Random, items: tuple[str, ...], two: float) -> tuple[str, ...]:
    chosen = rng.sample(items, 2 if rng.random() < two else 1)
    return tuple(drawn(rng, item) for item in chosen)


def _plan(rng: random.Random, topic: Topic, seen_again: str) -> tuple[str, ...]:
    treatment = drawn(rng, rng.choice(topic.plans))
    if rng.random() >= _SEEN_AGAIN:
        return (treatment,)
    unit = "days" if topic.unit in ("hours", "days") else "weeks"
    return treatment, f"{seen_again} in {rng.randint(2, 6)} {unit}"


def _lasting(rng: random.Random, topic: Topic) -> str:
    kind = rng.random()
    if kind < _NO_DURATION:
        return ""
    if kind < 2 * _NO_DURATION and topic.unit in _SINCE:
        return _SINCE[topic.unit]
    return f"for {rng.randint(*topic.durations)} {topic.unit}"


def _vitals(
    rng: random.Random, flags: frozenset[str], age: int, counts: tuple[int, int, int]
) -> dict[str, str]:
    """Two to four vital signs (how often each) in their order of telling, mostly the house's."""
    ranges = dict(_NORMAL_CHILD if age <= CHILD else _NORMAL)
    for flag in flags:
        sign, low, high = _OUT_OF_RANGE[flag]
        ranges[sign] = (low, high)
    count = rng.choices((2, 3, 4), counts)[0]
    # What is out of range is told first; blood pressure and pulse are measured on any ward.
    told = [_OUT_OF_RANGE[flag][0] for flag in sorted(flags)][:count]
    while len(told) < count:
        sign = rng.choice((*VITAL_SIGNS, "blood pressure", "pulse"))
        if sign not in told:
            told.append(sign)
    in_order = [sign for sign in VITAL_SIGNS if sign in told]
    if rng.random() < _OWN_ORDER:
        rng.shuffle(in_order)
    return {sign: _value(rng, sign, *ranges[sign]) for sign in in_order}


def _value(rng: random.Random, sign: str, low: int, high: int) -> str:
    number = rng.randint(low, high)
    if sign == "temperature":
        return f"{number / 10}"
    if sign == "blood pressure":
        return f"{number}/{number * 6 // 10 + rng.randint(-5, 4)}"
    return str(number)
