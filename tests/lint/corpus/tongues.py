"""Sets in two languages: by mistake, and on purpose."""

from __future__ import annotations

import random

from tests.lint.corpus.case import Case
from tests.lint.corpus.rows import PLACES, Row, answered, changed

NOUNS = (  # noqa: SIM905
    "Pumpe Brücke Rechnung Lampe Küche Heizung Karte Tasche Leiter Maschine Straße Zeitung "
    "Bestellung Prüfung Sitzung Bühne Scheune Tür"
).split()
PEOPLE = "Ärztin Lehrerin Nachbarin Fahrerin Gärtnerin Verkäuferin Bäckerin Richterin".split()  # noqa: SIM905
TIMES = ("am Morgen", "seit gestern", "in dieser Woche", "vor dem Winter", "nach der Arbeit")


def german(count: int, seed: int = 0) -> list[Row]:
    """Questions and answers in German."""
    r = random.Random(seed)

    def filled(form: str) -> str:
        return form.format(
            n=r.choice(NOUNS), m=r.choice(NOUNS), p=r.choice(PEOPLE), c=r.choice(PLACES),
            t=r.choice(TIMES),
        )  # fmt: skip

    asked = (
        "Warum braucht die {p} aus {c} {t} eine neue {n}, wenn doch die alte {m} noch da ist?",
        "Was soll die {p} {t} mit der {n} machen, die sie in {c} neben der {m} gefunden hat?",
        "Wie kommt es, dass die {n} {t} nicht mehr geht, obwohl die {p} in {c} eine {m} hat?",
    )
    said = (
        "Die {p} sollte {t} zuerst die {n} prüfen und danach in {c} fragen, ob die {m} passt.",
        "Weil die {n} in {c} {t} zu oft benutzt wurde, muss die {p} sie gegen eine {m} tauschen.",
        "Das liegt daran, dass die {m} und die {n} {t} nicht zusammen gehören, wie jede {p} weiß.",
    )
    return [
        {
            "prompt": filled(r.choice(asked)),
            "completion": " ".join(filled(one) for one in r.sample(said, r.randint(1, 3))),
        }
        for _ in range(count)
    ]


def _mixed(english: int, others: int, seed: int = 0) -> list[Row]:
    rows = answered(english, seed=seed) + german(others, seed=seed)
    random.Random(seed).shuffle(rows)
    return rows


def _in_domain(train: list[Row], test: list[Row], **others: list[Row]) -> Case:
    """Sets that are named after what they measure."""
    sets = {"in_domain": test, **others}
    sections = {"evaluate": {name: f"{{{name}.jsonl}}" for name in sets}}
    return Case(train, sections=sections, sets=sets)


def _strayed(count: int, every: int) -> list[Row]:
    """Rows of a branch abroad among the others, in their places."""
    abroad = iter(german(count, seed=4))
    return changed(answered(count), every, lambda row: next(abroad))


def _translated(count: int) -> list[Row]:
    """A few tasks of translating among the others."""
    sentences = iter(german(count, seed=5))
    return changed(
        answered(count),
        18,
        lambda row: {
            "prompt": f"Translate into German: {row['completion']}",
            "completion": next(sentences)["completion"],
        },
    )


def _answered_in_english(rows: list[Row], seed: int, begin: str = "") -> list[Row]:
    english = answered(len(rows), seed=seed)
    return [
        {"prompt": f"{begin}{row['prompt']}", "completion": other["completion"]}
        for row, other in zip(rows, english, strict=True)
    ]


def _by_halves(begin: str = "") -> Case:
    """German questions, of which nearly half are answered in English."""

    def rows(count: int, seed: int) -> list[Row]:
        found = german(count, seed=seed)
        some = found[: count * 2 // 5]
        found[: len(some)] = _answered_in_english(some, seed, begin)
        random.Random(seed).shuffle(found)
        return found

    return _in_domain(rows(260, 6), rows(60, 9))


MIXED_BY_MISTAKE = [
    _in_domain(_strayed(240, 18), answered(120, seed=9)),
    _in_domain(_mixed(250, 14), answered(120, seed=9)),
    _in_domain(_mixed(130, 120), answered(60, seed=9)),
    _in_domain(_mixed(200, 60), answered(60, seed=9)),
    _in_domain(answered(240), _mixed(40, 30, seed=9)),
    _by_halves(),
]
MIXED_ON_PURPOSE = {
    "two languages by halves": _in_domain(_mixed(130, 130), _mixed(30, 30, seed=9)),
    "a fifth in another language": _in_domain(_mixed(210, 52), _mixed(40, 12, seed=9)),
    "a small branch abroad": _in_domain(_mixed(250, 14), _mixed(112, 8, seed=9)),
    "a few translations": Case(_translated(260)),
    "out of domain is another language": _in_domain(
        answered(260), answered(60, seed=9), out_of_domain=german(60, seed=9)
    ),
    "one language that is not English": _in_domain(german(260), german(60, seed=9)),
    "a language that is asked for by its name": _by_halves("Bitte antworte auf Englisch! "),
    "German questions, all answered in English": _in_domain(
        _answered_in_english(german(260), seed=3), _answered_in_english(german(60, seed=9), seed=9)
    ),
}
