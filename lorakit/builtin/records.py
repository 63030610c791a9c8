"""Generated reading tasks: a few facts about one person in prose, and questions about them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from lorakit.builtin.conditions import conditions
from lorakit.builtin.document import Document, chat
from lorakit.builtin.words import CATEGORIES, PLACES

_DRUGS = "aspirin bisoprolol cetirizine furosemide ibuprofen insulin metformin morphine ramipril"
_SURNAMES = "Adler Brown Costa Dahl Evans Fischer Garcia Hahn Ito Jansen Khan Lopez Moore Novak"


@dataclass(frozen=True)
class Fact:
    """One fact: its key, its value, a sentence that says it and a question that asks for it."""

    key: str
    value: str
    sentence: str
    question: str


def record(rng: random.Random, *, held_out: bool = False) -> Document:
    """Facts and one task about them. Held-out and trained ones differ by the seed only."""
    name = f"{rng.choice(CATEGORIES['first names'])} {rng.choice(_SURNAMES.split())}"
    facts = rng.sample(_facts(rng, name), rng.randint(2, 6))
    text = " ".join(fact.sentence for fact in facts)
    asked = rng.sample(facts, rng.randint(1, len(facts)))
    kind = rng.random()
    if kind < 0.45:
        task, answer = asked[0].question, rng.choice((asked[0].value, asked[0].sentence))
    elif kind < 0.65:
        task = f"Give {_words(asked)} as JSON."
        answer = json.dumps({fact.key: fact.value for fact in asked})
    elif kind < 0.8:
        task = f"Give {_words(asked)}, separated by commas."
        answer = ", ".join(fact.value for fact in asked)
    elif kind < 0.9:
        task = f"Write what is known about {_words(asked)}."
        answer = " ".join(fact.sentence for fact in asked)
    else:
        task, answer = _missing(rng, name, facts)
    question = rng.choice((f"{text}\n\n{task}", f"{text} {task}", f"{task}\n\n{text}"))
    return chat(question, answer)


def _words(facts: list[Fact]) -> str:
    keys = [f"the {fact.key}" for fact in facts]
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"


def _missing(rng: random.Random, name: str, facts: list[Fact]) -> tuple[str, str]:
    known = {fact.key for fact in facts}
    others = [fact for fact in _facts(rng, name) if fact.key not in known]
    fact = rng.choice(others)
    return fact.question, rng.choice(
        (f"The text does not say the {fact.key}.", "It is not stated.")
    )


def _facts(rng: random.Random, name: str) -> list[Fact]:
    """Every fact that can be said about a person, with fresh values."""
    values = {
        "age": (f"{rng.randint(18, 95)} years", "{name} is {value} old.", "How old is {name}?"),
        "weight": (f"{rng.randint(45, 120)} kg", "{name} weighs {value}.", "What is the weight?"),
        "height": (f"{rng.randint(148, 198)} cm", "The height is {value}.", "How tall is {name}?"),
        "pulse": (
            f"{rng.randint(48, 130)} per minute",
            "The pulse is {value}.",
            "What is the pulse?",
        ),
        "temperature": (
            f"{rng.randint(355, 402) / 10} degrees",
            "The temperature was {value} today.",
            "What was the temperature?",
        ),
        "city": (rng.choice(PLACES), "{name} lives in {value}.", "Where does {name} live?"),
        "job": (rng.choice(CATEGORIES["jobs"]), "{name} is a {value}.", "What is the job?"),
        "drug": (rng.choice(_DRUGS.split()), "{name} takes {value}.", "What does {name} take?"),
        "dose": (
            f"{rng.choice((5, 10, 25, 40, 75, 100, 250, 500))} mg",
            "The dose is {value} per day.",
            "What is the dose?",
        ),
        "room": (f"room {rng.randint(1, 60)}", "{name} lies in {value}.", "Where does {name} lie?"),
        "visit": (
            rng.choice(CATEGORIES["days"]),
            "The next visit is on {value}.",
            "When is the next visit?",
        ),
        "illness": (
            rng.choice(conditions()).name,
            "{name} has {value}.",
            "Which illness does {name} have?",
        ),
        "complaint": (
            rng.choice(rng.choice(conditions()).symptoms),
            "{name} complains of {value}.",
            "What does {name} complain of?",
        ),
        "breakfast": (
            rng.choice(CATEGORIES["foods"]),
            "For breakfast {name} had {value}.",
            "What did {name} have for breakfast?",
        ),
    }
    return [
        Fact(key, value, said.format(name=name, value=value), asked.format(name=name))
        for key, (value, said, asked) in values.items()
    ]
