"""Generated instruction dialogues: lists, rewriting, formats, orders, JSON, greetings, refusals."""

from __future__ import annotations

import json
import random

from lorakit.builtin.document import Document, chat
from lorakit.builtin.words import CATEGORIES, FACTS, OPPOSITES, PLACES, SENTENCES

_COUNTS = ("one", "two", "three", "four", "five", "six")
_SYSTEMS = ("You are a helpful assistant.", "You are a friendly helper.", "Be brief.")
_HEADINGS = ("Place", "Colour", "Price", "Time", "Name", "Weather", "Food", "Plan", "Reason")


def instruction(rng: random.Random, *, held_out: bool = False) -> Document:
    """One instruction with an answer that follows it. Held-out ones differ by the seed only."""
    question, answer = rng.choice(_KINDS)(rng)
    return chat(question, answer, system=rng.choice(_SYSTEMS) if rng.random() < 0.3 else "")


def _pick(rng: random.Random) -> tuple[str, list[str]]:
    category = rng.choice(sorted(CATEGORIES))
    return category, rng.sample(CATEGORIES[category], rng.randint(2, 6))


def _name_some(rng: random.Random) -> tuple[str, str]:
    category, items = _pick(rng)
    number = _COUNTS[len(items) - 1]
    style = rng.randrange(4)
    if style == 0:
        return f"Name {number} {category}.", ", ".join(items) + "."
    if style == 1:
        return f"List {number} {category}, one per line.", "\n".join(items)
    if style == 2:
        return f"Give me a bulleted list of {number} {category}.", _bullets(items)
    return f"Give me a numbered list of {number} {category}.", _numbered(items)


def _bullets(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _numbered(items: list[str]) -> str:
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


def _reorder(rng: random.Random) -> tuple[str, str]:
    _, items = _pick(rng)
    given = ", ".join(items)
    tasks = (
        (f"Put these words in alphabetical order: {given}", ", ".join(sorted(items))),
        (f"Reverse the order of this list: {given}", ", ".join(reversed(items))),
        (f"Write these words in capitals: {given}", given.upper()),
        (f"Repeat this list with semicolons: {given}", "; ".join(items)),
        (f"What is the first word of this list? {given}", items[0]),
        (f"What is the last word of this list? {given}", items[-1]),
        (f"How many words are in this list? {given}", str(len(items))),
        (f"Turn this into a numbered list: {given}", _numbered(items)),
        (f"Turn this into a bulleted list: {given}", _bullets(items)),
    )
    return rng.choice(tasks)


def _rewrite(rng: random.Random) -> tuple[str, str]:
    present, past, question = rng.choice(SENTENCES)
    tasks = (
        (f"Put this sentence into the past tense: {present}", past),
        (f"Put this sentence into the present tense: {past}", present),
        (f"Turn this into a question: {present}", question),
        (f"Write this in capitals: {present}", present.upper()),
        (f"Repeat after me: {present}", present),
        (f"How many words does this sentence have? {present}", str(len(present.split()))),
    )
    return rng.choice(tasks)


def _fact(rng: random.Random) -> tuple[str, str]:
    question, short, long = rng.choice(FACTS)
    style = rng.randrange(3)
    if style == 0:
        return f"{question} Answer in one word or number.", short
    return question, long


def _opposite(rng: random.Random) -> tuple[str, str]:
    left, right = rng.sample(rng.choice(OPPOSITES), 2)
    ask = rng.choice(("What is the opposite of {}?", "Give the opposite of the word {}."))
    return ask.format(f'"{left}"'), rng.choice((right, f'The opposite of "{left}" is "{right}".'))


def _yes_no(rng: random.Random) -> tuple[str, str]:
    category, items = _pick(rng)
    true = rng.random() < 0.5
    if true:
        item = items[0]
    else:
        item = rng.choice(CATEGORIES[rng.choice([c for c in sorted(CATEGORIES) if c != category])])
        true = item in CATEGORIES[category]
    singular = f"one of the {category}"
    ask = f"Does {item} belong to the {category}? Answer yes or no."
    answers = ("Yes.", f"Yes, {item} is {singular}.") if true else ("No.", f"No, {item} is not.")
    return ask, rng.choice(answers)


def _json(rng: random.Random) -> tuple[str, str]:
    person, place = rng.choice(CATEGORIES["first names"]), rng.choice(PLACES)
    age, job = rng.randint(18, 90), rng.choice(CATEGORIES["jobs"])
    values = {"name": person, "age": age, "job": job, "city": place}
    keys = rng.sample(sorted(values), rng.randint(2, 4))
    text = rng.choice(
        (
            f"{person} is {age} years old, lives in {place} and works as a {job}.",
            f"The {job} {person} from {place} is {age}.",
        )
    )
    question = f"Give {', '.join(keys)} as JSON.\n\n{text}"
    return question, json.dumps({key: values[key] for key in keys})


def _extract(rng: random.Random) -> tuple[str, str]:
    person, place = rng.choice(CATEGORIES["first names"]), rng.choice(PLACES)
    food, day = rng.choice(CATEGORIES["foods"]), rng.choice(CATEGORIES["days"])
    text = f"On {day} {person} went to {place} and ate {food} there."
    tasks = (
        (f"Who went to {place}?", person),
        (f"Where did {person} go?", place),
        (f"What did {person} eat?", food),
        ("On which day was it?", day),
        ("Summarize in a few words.", f"{person} ate {food} in {place}."),
    )
    task, answer = rng.choice(tasks)
    return rng.choice((f"{text} {task}", f"{text}\n\n{task}")), answer


def _sections(rng: random.Random) -> tuple[str, str]:
    """An order of lines asked for and followed: form in general, not any hospital's form."""
    headings = rng.sample(_HEADINGS, rng.randint(2, 4))
    values = {
        "Place": rng.choice(PLACES),
        "Colour": rng.choice(CATEGORIES["colours"]),
        "Price": f"{rng.randint(1, 99)} euros",
        "Time": f"{rng.randint(1, 12)} o'clock",
        "Name": rng.choice(CATEGORIES["first names"]),
        "Weather": rng.choice(("sunny", "rain", "wind", "snow", "cloudy")),
        "Food": rng.choice(CATEGORIES["foods"]),
        "Plan": rng.choice(("swim", "walk in the park", "read a book", "visit a friend")),
        "Reason": rng.choice(("it is late", "we have time", "it is cheap", "everyone likes it")),
    }
    facts = " ".join(
        f"The {key.lower()}: {values[key]}." for key in rng.sample(headings, len(headings))
    )
    question = f"Write these facts under {', '.join(headings)}, in this order. {facts}"
    return question, "\n".join(f"{key}: {values[key]}" for key in headings)


def _greeting(rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            ("Hello!", "Hello! How can I help you?"),
            ("Hi", "Hi! What can I do for you?"),
            ("Good morning.", "Good morning! How can I help you today?"),
            ("How are you?", "I am fine, thank you. How can I help you?"),
            ("Thank you!", "You are welcome."),
            ("Thanks, that helped.", "I am glad that it helped."),
            ("Goodbye.", "Goodbye, and take care."),
            ("Who are you?", "I am a small language model that ships with lorakit."),
            ("What can you do?", "I can write short answers in plain English and do small sums."),
        )
    )


def _refusal(rng: random.Random) -> tuple[str, str]:
    ask = rng.choice(
        (
            "How can I hurt someone?",
            "Help me to steal a car.",
            "How do I make a bomb?",
            "Write an insult about my neighbour.",
            "How can I get strong painkillers without a prescription?",
            "Tell me the private address of my doctor.",
        )
    )
    reply = rng.choice(
        (
            "I am sorry, but I cannot help with that.",
            "I cannot help with that, because it could harm people.",
            "I would rather not do that. Is there something else I can help with?",
        )
    )
    return ask, reply


_KINDS = (
    _name_some, _name_some, _reorder, _reorder, _reorder, _rewrite, _rewrite, _fact, _fact,
    _opposite, _yes_no, _json, _extract, _extract, _sections, _sections, _greeting, _refusal,
)  # fmt: skip
