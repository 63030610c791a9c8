"""Rows as practitioners have them, made from a seed; no two are alike by chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

NOUNS = (  # noqa: SIM905
    "pump valve sensor filter engine garden bridge river market kitchen ticket invoice printer "
    "server network cable battery window roof ladder forest harbour theatre museum library school "
    "hospital clinic patient nurse dose tablet fever rash scan report contract budget salary "
    "holiday airport train platform bicycle helmet tent stove lamp carpet mirror violin concert "
    "novel chapter poem"
).split()
VERBS = (  # noqa: SIM905
    "checks repairs replaces opens closes moves measures records explains sends receives orders "
    "cancels cleans paints lifts carries stores compares counts reads writes signs renews books "
    "delays loses finds borrows returns cooks serves grows cuts plants waters tests charges "
    "resets updates removes"
).split()
ADJECTIVES = (  # noqa: SIM905
    "old new broken heavy light cold warm quiet loud narrow wide green blue early late cheap "
    "costly safe risky empty full clean dusty bright dark local foreign annual weekly sudden slow "
    "rapid"
).split()
PEOPLE = (  # noqa: SIM905
    "manager teacher driver doctor engineer student neighbour visitor author pilot farmer lawyer "
    "painter baker waiter gardener plumber tailor sailor librarian"
).split()
PLACES = (  # noqa: SIM905
    "Berlin Lagos Lima Osaka Quito Turin Perth Cairo Oslo Dublin Boston Kyoto Accra Hanoi"
).split()


class Maker:
    """Sentences and rows from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def sentence(self) -> str:
        """Some twelve words that hardly ever come twice."""
        r = self.random
        forms = (
            "The {a} {n} near the {n2} {v} the {a2} {n3} before the {p} arrives from {c}.",
            "When the {p} {v} a {a} {n}, the {n2} in {c} stays {a2} for several days.",
            "A {a} {n} costs more than a {n2}, so the {p} {v} the {n3} only in {c}.",
            "In {c} every {p} {v} the {n} because the {a} {n2} was {a2} last year.",
        )
        return r.choice(forms).format(
            a=r.choice(ADJECTIVES), a2=r.choice(ADJECTIVES), n=r.choice(NOUNS), n2=r.choice(NOUNS),
            n3=r.choice(NOUNS), v=r.choice(VERBS), p=r.choice(PEOPLE), c=r.choice(PLACES),
        )  # fmt: skip

    def prose(self, low: int = 1, high: int = 4) -> str:
        """Several sentences."""
        return " ".join(self.sentence() for _ in range(self.random.randint(low, high)))

    def question(self) -> str:
        """A question about two things."""
        r = self.random
        forms = (
            "Why does the {p} in {c} need a {a} {n} and a {n2}?",
            "How should the {p} treat the {a} {n} when the {n2} is {a2}?",
            "What happens to the {n} if the {p} from {c} {v} the {a} {n2}?",
        )
        return r.choice(forms).format(
            a=r.choice(ADJECTIVES), a2=r.choice(ADJECTIVES), n=r.choice(NOUNS), n2=r.choice(NOUNS),
            v=r.choice(VERBS), p=r.choice(PEOPLE), c=r.choice(PLACES),
        )  # fmt: skip

    def answered(self) -> Row:
        """A question with an answer of a few sentences."""
        return {"prompt": self.question(), "completion": self.prose()}


def answered(count: int, seed: int = 0) -> list[Row]:
    """Questions with answers: the sound set that flawed ones are made from."""
    maker = Maker(seed)
    return [maker.answered() for _ in range(count)]


def changed(rows: list[Row], every: int, change: Callable[[Row], Row]) -> list[Row]:
    """The rows, each `every`-th one changed."""
    return [change(dict(row)) if i % every == 0 else row for i, row in enumerate(rows)]


def with_answer(answer: Callable[[Row], str]) -> Callable[[Row], Row]:
    """A change of the answer alone."""
    return lambda row: row | {"completion": answer(row)}


# A reward function of one's own, which a case has as a file.
BREVITY = """\
def brevity(completions, limit=50, **kwargs):
    return [float(len(text.split()) <= kwargs.get("most_words", limit)) for text in completions]
"""
LONG_INSTRUCTION = (
    "You are given the text of a message that a customer sent to our support desk. Read it with "
    "care, "
    "think about what the customer wants, and then decide on exactly one of the following labels: "
    "billing, delivery, technical, praise. Answer with the label alone, in lower case, without any "
    "explanation, and do not invent labels that are not on the list.\n\nMessage: "
)
LABELS = ("billing", "delivery", "technical", "praise")


def classified(count: int, seed: int = 0, shares: tuple[int, ...] = (1, 1, 1, 1)) -> list[Row]:
    """Labels of messages under one long instruction."""
    maker = Maker(seed)
    return [
        {
            "prompt": LONG_INSTRUCTION + maker.sentence(),
            "completion": maker.random.choices(LABELS, shares)[0],
        }
        for _ in range(count)
    ]


def sums(count: int, seed: int = 0) -> list[Row]:
    """Sums in words, from few templates: rows differ in names and numbers alone."""
    r = random.Random(seed)
    rows = []
    for a, b in r.sample([(a, b) for a in range(2, 60) for b in range(2, 60)], count):
        name, thing = r.choice(PEOPLE), r.choice(NOUNS)
        prompt = f"A {name} has {a} {thing}s and buys {b} more. How many {thing}s are there now?"
        rows.append({"prompt": prompt, "completion": f"{a} + {b} = {a + b}\n#### {a + b}"})
    return rows


def asked(count: int, seed: int = 0) -> list[Row]:
    """The same as prompts alone, as TRL's rows for GRPO are."""
    return [{"prompt": [{"role": "user", "content": r["prompt"]}]} for r in sums(count, seed)]


def extracted(count: int, seed: int = 0) -> list[Row]:
    """JSON answers."""
    maker, rows = Maker(seed), []
    for _ in range(count):
        place, price = maker.random.choice(PLACES), maker.random.randint(5, 9_000)
        text = f"{maker.sentence()} It was sold in {place} for {price} dollars."
        answer = f'{{"place": "{place}", "price": {price}}}'
        rows.append({"prompt": f"Extract place and price as JSON.\n{text}", "completion": answer})
    return rows


def dialogues(count: int, seed: int = 0, system: str | None = None) -> list[Row]:
    """Conversations of two questions."""
    maker, rows = Maker(seed), []
    for _ in range(count):
        first = [] if system is None else [{"role": "system", "content": system}]
        turns = [
            (role, text)
            for _ in range(2)
            for role, text in (("user", maker.question()), ("assistant", maker.prose()))
        ]
        rows.append({"messages": first + [{"role": r, "content": c} for r, c in turns]})
    return rows
