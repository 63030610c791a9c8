"""Generated clinical English: leaflets, questions and answers, and hospital notes in plain prose.

The notes are prose on purpose: a fixed form with headings is what fine-tuning shall teach.
"""

from __future__ import annotations

import random

from lorakit.builtin.conditions import Condition, conditions
from lorakit.builtin.document import Document, chat

_WARDS = ("the emergency department", "the clinic", "the surgical ward", "the medical ward")
_PEOPLE = (("man", "He", "his"), ("woman", "She", "her"))
_OUTCOMES = (
    "was discharged home in good condition",
    "went home the next day",
    "stays on the ward for observation",
    "improved over the following two days",
    "was referred to a specialist",
)
_SYSTEMS = (
    "You are a helpful medical assistant.",
    "You answer questions of patients in plain words.",
    "Answer briefly.",
    "",
    "",
)


def clinical_text(rng: random.Random, *, held_out: bool = False) -> Document:
    """A leaflet or a note as plain text; held-out and trained ones differ by the seed only."""
    condition = rng.choice(conditions())
    return Document(text=rng.choice((_leaflet, _note, _note))(rng, condition))


def clinical_chat(rng: random.Random, *, held_out: bool = False) -> Document:
    """A question about a condition, one about a dose or a unit, or a note to be summarized."""
    condition = rng.choice(conditions())
    kind = rng.random()
    if kind < 0.6:
        question, answer = _question(rng, condition)
    elif kind < 0.75:
        question, answer = _dose(rng)
    elif kind < 0.9:
        question, answer = _summary(rng, condition)
    else:
        question, answer = _which(rng, condition)
    return chat(question, answer, system=rng.choice(_SYSTEMS))


def listed(items: tuple[str, ...] | list[str], word: str = "and") -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def capital(text: str) -> str:
    """The first letter as a capital."""
    return text[0].upper() + text[1:]


def _some(rng: random.Random, condition: Condition) -> list[str]:
    return rng.sample(condition.symptoms, rng.randint(2, len(condition.symptoms)))


def _leaflet(rng: random.Random, c: Condition) -> str:
    name = capital(c.name)
    sentences = [
        rng.choice((f"{name} is {c.what}.", f"{capital(c.what)} is called {c.name}.")),
        rng.choice((f"It is caused by {c.causes}.", f"Causes and triggers are {c.causes}.")),
        rng.choice(
            (
                f"Common symptoms are {listed(_some(rng, c))}.",
                f"People with {c.name} may have {listed(_some(rng, c), 'or')}.",
            )
        ),
        f"To make the diagnosis doctors use {c.tests}.",
        rng.choice((f"Treatment is {c.treatment}.", f"It is treated with {c.treatment}.")),
        rng.choice((f"You can help yourself: {c.advice}.", f"It is best to {c.advice}.")),
        f"Get help at once if {c.urgent}.",
    ]
    first, *rest = sentences
    kept = [sentence for sentence in rest if rng.random() < 0.8]
    return " ".join([first, *kept])


def _note(rng: random.Random, c: Condition) -> str:
    person, pronoun, possessive = rng.choice(_PEOPLE)
    age, days = rng.randint(18, 92), rng.randint(1, 14)
    symptoms = _some(rng, c)
    systolic = rng.randint(95, 175)
    vitals = (
        f"{capital(possessive)} blood pressure was {systolic}/{systolic * 5 // 8} mmHg, the pulse "
        f"{rng.randint(56, 124)} per minute, the temperature {rng.randint(360, 396) / 10} degrees "
        f"and the oxygen saturation {rng.randint(88, 100)} percent."
    )
    sentences = [
        rng.choice(
            (
                f"A {age}-year-old {person} came to {rng.choice(_WARDS)} with {listed(symptoms)}.",
                f"This {age}-year-old {person} was seen in {rng.choice(_WARDS)} because of "
                f"{listed(symptoms)} for {days} days.",
            )
        ),
        f"{pronoun} had {rng.choice(('no', 'no known'))} allergies to medicines.",
        vitals,
        f"To make the diagnosis we used {c.tests}.",
        rng.choice((f"The findings fit {c.name}.", f"The diagnosis is {c.name}.")),
        f"We recommended {c.treatment}.",
        f"{pronoun} was told to {c.advice}, and to come back at once if {c.urgent}.",
        f"{pronoun} {rng.choice(_OUTCOMES)}.",
    ]
    first, *rest = sentences
    return " ".join([first, *(sentence for sentence in rest if rng.random() < 0.75)])


def _question(rng: random.Random, c: Condition) -> tuple[str, str]:
    name = c.name
    pairs = (
        (
            rng.choice((f"What is {name}?", f"What does {name} mean?", f"Explain {name}.")),
            f"{capital(name)} is {c.what}.",
        ),
        (
            rng.choice((f"What causes {name}?", f"What are the causes of {name}?")),
            f"{capital(name)} is caused by {c.causes}.",
        ),
        (
            rng.choice((f"What are the symptoms of {name}?", f"How do I know I have {name}?")),
            f"The symptoms of {name} are {listed(c.symptoms)}.",
        ),
        (
            rng.choice((f"How is {name} diagnosed?", f"Which tests are done for {name}?")),
            f"Doctors use {c.tests} to diagnose {name}.",
        ),
        (
            rng.choice((f"How is {name} treated?", f"What is the treatment of {name}?")),
            f"{capital(name)} is treated with {c.treatment}.",
        ),
        (
            rng.choice((f"What can I do myself for {name}?", f"Any advice for {name}?")),
            f"With {name}, {c.advice}.",
        ),
        (
            rng.choice((f"When is {name} an emergency?", f"I have {name}. When must I get help?")),
            f"Get help at once if {c.urgent}.",
        ),
        (f"Tell me about {name}.", _leaflet(rng, c)),
    )
    return rng.choice(pairs)


def _dose(rng: random.Random) -> tuple[str, str]:
    drug = rng.choice(("paracetamol", "ibuprofen", "amoxicillin", "metformin", "drug A"))
    tablets, strength = rng.randint(1, 4), rng.choice((5, 10, 20, 50, 100, 200, 250, 500))
    if rng.random() < 0.5:
        question = f"One tablet of {drug} has {strength} mg. How much is in {tablets} tablets?"
        return question, f"{tablets} tablets contain {tablets * strength} mg."
    grams = rng.randint(1, 9)
    pairs = (
        (f"How many mg are {grams} g?", f"{grams} g are {grams * 1000} mg."),
        (f"How many ml are {grams} litres?", f"{grams} litres are {grams * 1000} ml."),
        (f"How many micrograms are {grams} mg?", f"{grams} mg are {grams * 1000} micrograms."),
        (f"How many hours are {grams} days?", f"{grams} days are {grams * 24} hours."),
    )
    return rng.choice(pairs)


def _summary(rng: random.Random, c: Condition) -> tuple[str, str]:
    note = _note(rng, c)
    task = rng.choice(("Summarize this note in one sentence.", "What is the main problem?"))
    return f"{task}\n\n{note}", f"{note.split('. ')[0].removesuffix('.')}; it fits {c.name}."


def _which(rng: random.Random, c: Condition) -> tuple[str, str]:
    other = rng.choice([item for item in conditions() if item is not c])
    names = rng.sample((c.name, other.name), 2)
    question = f"A patient has {listed(_some(rng, c))}. Is this {names[0]} or {names[1]}?"
    return question, f"This fits {c.name}."
