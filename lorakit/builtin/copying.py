"""Generated copying tasks: what the answer says stands in the question, and only there.

Names, numbers and pseudo-words are drawn at random, so that nothing can be known by heart: the only
way to a low loss is to look the words up. Copying forms in a model when texts reward it densely
(Olsson et al., "In-context Learning and Induction Heads", arXiv 2209.11895).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lorakit.builtin.conditions import conditions
from lorakit.builtin.document import Document, chat
from lorakit.builtin.words import CATEGORIES, PLACES

_SYLLABLES = (
    "ba be bo da de do fa fe fi ga go ha he hi ka ke ki la le li lo ma me mi mo na ne ni no pa pe "
    "pi po ra re ri ro sa se si so ta te ti to va ve vi vo wa we za zu"
)
_KEYS = (
    "animal", "bag", "bed", "bill", "book", "box", "bus", "car", "card", "city", "clock", "code",
    "colour", "cup", "date", "day", "desk", "dish", "door", "drink", "film", "floor", "food",
    "friend", "game", "garden", "gift", "guest", "hall", "hat", "hobby", "hotel", "house", "job",
    "key", "lamp", "letter", "meal", "metal", "month", "name", "number", "order", "page", "part",
    "path", "pet", "place", "plant", "price", "prize", "road", "room", "school", "seat", "shape",
    "ship", "shop", "size", "song", "sport", "star", "street", "table", "task", "team", "ticket",
    "time", "tool", "town", "toy", "train", "tree", "trip", "wall", "watch", "weight", "word",
)  # fmt: skip
_UNITS = ("kg", "m", "km", "euros", "pages", "hours", "minutes", "litres", "pieces", "per day")
_SAID = (
    "The {key} is {value}.", "{value} is the {key}.", "For the {key} we have {value}.",
    "As {key} take {value}.", "My {key}: {value}.", "{key} {value}.", "The {key} was {value}.",
)  # fmt: skip
_LISTS = (", ", ", ", "; ", " then ", " > ", "\n")
_ORDERS = (
    "Write lines such as {shape} in this order: {listed}.", "Order: {listed}. Lines: {shape}.",
    "{shape}: {listed}", "Lines as {shape}, first to last: {listed}.",
    "Use {listed}. Like {shape}.", "As {shape}, begin with {listed}.",
    "In lines like {shape} give {listed}.",
)  # fmt: skip
_FORMS = ("{key} = {value}", "{key} -> {value}", "({key}) {value}", "{value} ({key})")


@dataclass(frozen=True)
class _Fact:
    key: str
    value: str


def copying(rng: random.Random, *, held_out: bool = False) -> Document:
    """One copying task. Held-out and trained ones differ by the seed only."""
    return rng.choice(_KINDS)(rng)


def _word(rng: random.Random) -> str:
    """A word that may never have been read before."""
    kind = rng.random()
    if kind < 0.4:
        return "".join(rng.choices(_SYLLABLES.split(), k=rng.randint(2, 3)))
    if kind < 0.55:
        return str(rng.randrange(10 ** rng.randint(1, 3)))
    if kind < 0.62:
        return f"{rng.randrange(10, 200)}{rng.choice('./')}{rng.randrange(1, 100)}"
    if kind < 0.7:
        return rng.choice(PLACES)
    return rng.choice(CATEGORIES[rng.choice(sorted(CATEGORIES))])


def _phrase(rng: random.Random) -> str:
    """One to eight words: a quantity, words at random, or a piece of a leaflet."""
    kind = rng.random()
    if kind < 0.25:
        return f"{rng.randrange(1, 10 ** rng.randint(1, 3))} {rng.choice(_UNITS)}"
    if kind < 0.6:
        return " ".join(_word(rng) for _ in range(rng.randint(1, 4)))
    condition = rng.choice(conditions())
    texts = (condition.causes, condition.treatment, condition.advice, *condition.symptoms)
    words = rng.choice(texts).split()
    start = rng.randrange(len(words))
    return " ".join(words[start : start + rng.randint(1, 8)]).strip(",;.")


def _facts(rng: random.Random, low: int, high: int) -> list[_Fact]:
    keys = rng.sample(_KEYS, rng.randint(low, high))
    return [_Fact(key, _phrase(rng)) for key in keys]


def _told(rng: random.Random, facts: list[_Fact]) -> str:
    """The facts in sentences, or in lines."""
    if rng.random() < 0.4:
        form = rng.choice(("{key}: {value}", *_FORMS))
        return "\n".join(form.format(key=f.key, value=f.value) for f in facts)
    if rng.random() < 0.4:  # in one breath
        form = rng.choice(("{key} {value}", "the {key} is {value}", "{value} as {key}"))
        return ", ".join(form.format(key=f.key, value=f.value) for f in facts) + "."
    said = (rng.choice(_SAID).format(key=f.key, value=f.value) for f in facts)
    return " ".join(text[0].upper() + text[1:] for text in said)


def _asked(rng: random.Random, text: str, task: str) -> str:
    return rng.choice((f"{text}\n\n{task}", f"{text} {task}", f"{task}\n\n{text}"))


def _twice(rng: random.Random) -> Document:
    """Words at random, and the same again; or several times."""
    words = [_word(rng) for _ in range(rng.randint(6, 40))]
    joint = rng.choice((" ", ", ", "\n", " - "))
    text = joint.join(words)
    if rng.random() < 0.5:
        return Document(text="\n\n".join([text] * rng.randint(2, 3)))
    task = rng.choice(("Repeat:", "Copy this:", "Write the same again:", "Say it once more:"))
    return chat(f"{task} {text}", text)


def _jumbled(rng: random.Random) -> Document:
    """Phrases whose order changes from one line to the next: each must be found again."""
    phrases = [_phrase(rng) for _ in range(rng.randint(3, 6))]
    lines = [rng.sample(phrases, len(phrases)) for _ in range(rng.randint(2, 4))]
    joint = rng.choice(("; ", " | ", "\n"))
    return Document(text="\n\n".join(joint.join(line) for line in lines))


def look_up(rng: random.Random) -> Document:
    """A few facts at random, and a question for one of them."""
    facts = _facts(rng, 2, 7)
    asked = rng.choice(facts)
    task = rng.choice(("What is the {}?", "Tell me the {}.", "Which {} is it?", "{}?", "Find: {}"))
    return chat(_asked(rng, _told(rng, facts), task.format(asked.key)), asked.value)


def _continue(rng: random.Random) -> Document:
    """The words that follow some given ones in a text."""
    words = [_word(rng) for _ in range(rng.randint(8, 24))]
    start = rng.randrange(len(words) - 4)
    given, rest = words[start : start + 2], words[start + 2 : start + 2 + rng.randint(2, 8)]
    task = f'What comes after "{" ".join(given)}"?'
    return chat(_asked(rng, " ".join(words), task), " ".join(rest))


def _form(rng: random.Random) -> Document:
    """Some of the facts as lines, in an order that the question asks for."""
    facts = _facts(rng, 3, 7)
    chosen = rng.sample(facts, rng.randint(2, min(5, len(facts))))
    keys = [fact.key for fact in chosen]
    listed = rng.choice((", ".join(keys), "; ".join(keys), " then ".join(keys)))
    form = rng.choice(_FORMS)
    shape = form.format(key="word", value="text")
    task = rng.choice(
        (
            f"Write lines such as {shape} in this order: {listed}.",
            f"Order: {listed}. Each line as {shape}.",
            f"As {shape}, first to last: {listed}.",
        )
    )
    answer = "\n".join(form.format(key=f.key, value=f.value) for f in chosen)
    return chat(_asked(rng, _told(rng, rng.sample(facts, len(facts))), task), answer)


def ordered(rng: random.Random, *, held_out: bool = False) -> Document:
    """Short facts as lines, in an order asked for: what comes next is told by the list alone.

    The key just written has to be found in the list, and the one behind it be written; with keys at
    random no order can be known by heart. Held-out and trained ones differ by the seed only.
    """
    keys = rng.sample(_KEYS, rng.randint(2, 6))
    facts = [_Fact(key, _short(rng)) for key in keys]
    asked = rng.sample(keys, rng.randint(2, len(keys)))
    value_of = {fact.key: fact.value for fact in facts}
    form = rng.choice(_FORMS[:3])
    listed = rng.choice(_LISTS).join(asked)
    task = rng.choice(_ORDERS).format(listed=listed, shape=form.format(key="word", value="text"))
    answer = "\n".join(form.format(key=key, value=value_of[key]) for key in asked)
    return chat(_asked(rng, _told(rng, rng.sample(facts, len(facts))), task), answer)


def _short(rng: random.Random) -> str:
    return (
        _phrase(rng)
        if rng.random() < 0.3
        else " ".join(_word(rng) for _ in range(rng.choice((1, 1, 2))))
    )


def _values(rng: random.Random) -> Document:
    """Only the values, in an order that the question asks for."""
    facts = _facts(rng, 3, 7)
    chosen = rng.sample(facts, rng.randint(2, min(5, len(facts))))
    task = rng.choice(("Give {}.", "I need {}.", "Values of {}, please."))
    task = task.format(", ".join(fact.key for fact in chosen))
    joint = rng.choice((", ", "; ", "\n"))
    given = f"{_asked(rng, _told(rng, facts), task)}"
    return chat(given, joint.join(fact.value for fact in chosen))


_KINDS = (
    _twice, _twice, _jumbled, look_up, look_up, look_up, _continue, _form, _form, _form, _values,
)  # fmt: skip
