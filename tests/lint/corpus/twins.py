"""A flaw that only the whole set shows, and what looks like it and is sound."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

from tests.lint.corpus.case import Case
from tests.lint.corpus.rows import (
    LABELS,
    NOUNS,
    PEOPLE,
    PLACES,
    Maker,
    Row,
    answered,
    changed,
    classified,
    extracted,
    with_answer,
)

ASKED = (
    "Hi, my {thing} has not come yet.",
    "Hello there, I got the wrong {thing}.",
    "Good morning, the {thing} I bought is broken.",
)
REPLIED = (
    "I am sorry to hear that. May I have your order number, please?",
    "That should not happen. What is the order number?",
    "Thank you for writing. Could you give me the number?",
)
TOLD = ("It is {n}.", "{n}, I think.", "The paper says {n}.")
SOLVED = (
    "Thank you, I found order {n}. A new one leaves today.",
    "I have refunded order {n}. Is there anything else?",
    "Order {n} is with the carrier, and I have written to them.",
)
OTHER = {"user": "assistant", "assistant": "user"}


def chats(count: int, *, swapped: int = 0, greeted: int = 0) -> list[Row]:
    """A shop's desk; each `swapped`-th with roles exchanged, each `greeted`-th opened by it."""
    r, rows = random.Random(21), []
    for i in range(count):
        n, thing = r.randrange(10_000, 99_999), f"{r.choice(PLACES)} {r.choice(NOUNS)}"
        forms = (("user", ASKED), ("assistant", REPLIED), ("user", TOLD), ("assistant", SOLVED))
        turns = [(role, r.choice(said).format(thing=thing, n=n)) for role, said in forms]
        if greeted and i % greeted == 0:
            turns = [("assistant", "Thank you for writing. What can I do for you?"), *turns]
        if swapped and i % swapped == 0:
            turns = [(OTHER[role], text) for role, text in turns]
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    return rows


def alike(count: int) -> list[Row]:
    """Two friends who talk of the same things in the same words."""
    maker = Maker(22)
    return [
        {
            "messages": [
                {"role": role, "content": maker.prose(1, 2)} for role in ("user", "assistant") * 2
            ]
        }
        for _ in range(count)
    ]


def explained(count: int) -> list[Row]:
    """Answers that speak of what is asked."""
    maker, rows = Maker(23), []
    for i in range(count):
        r = maker.random
        thing = f"{r.choice(NOUNS)}{i} {r.choice(NOUNS)}"
        place = r.choice(PLACES)
        rows.append(
            {
                "prompt": f"What is the {thing} in {place} good for?",
                "completion": f"The {thing} serves the {r.choice(PEOPLE)} of {place}. "
                + maker.sentence(),
            }
        )
    return rows


def moved(rows: list[Row], by: int) -> list[Row]:
    """The answers so many rows further down."""
    answers = [row["completion"] for row in rows]
    return [
        row | {"completion": answer}
        for row, answer in zip(rows, answers[-by:] + answers[:-by], strict=True)
    ]


def _story(count: int) -> list[Row]:
    """Each answer is the next prompt: steps of one text."""
    maker = Maker(24)
    told = [maker.prose(2, 3) for _ in range(count + 1)]
    return [{"prompt": a, "completion": b} for a, b in itertools.pairwise(told)]


def by_topic(count: int) -> list[Row]:
    """Three questions on a thing, one after the other: neighbours fit, but the own prompt too."""
    rows = []
    for row in explained(count // 3):
        asked = row["prompt"]
        for what in ("is it", "does it cost", "do people say"):
            rows.append({"prompt": f"{asked} And what {what}?", "completion": row["completion"]})
    maker = Maker(25)
    return [row | {"completion": f"{row['completion']} {maker.sentence()}"} for row in rows]


def broken_off(row: Row) -> Row:
    """The answer up to the middle of a word."""
    text = row["completion"]
    end = int(0.6 * len(text))
    while not text[end - 2 : end + 1].isalpha():
        end -= 1
    return row | {"completion": text[:end]}


def _lists() -> list[Row]:
    """Answers that end in a list without a full stop, or a name, among sentences."""
    maker = Maker(26)

    def listed(row: Row) -> str:
        items = "\n".join(f"- {maker.random.choice(NOUNS)}" for _ in range(4))
        return f"{row['completion']} Take along:\n{items}"

    def signed(row: Row) -> str:
        return f"{row['completion']} Kind regards, {maker.random.choice(('Ann', 'Tom', 'Eve'))}"

    return changed(changed(answered(260), 6, with_answer(listed)), 7, with_answer(signed))


def told_label(row: Row) -> Row:
    """The desk's queue, which somebody chose by the label."""
    head, message = row["prompt"].split("Message: ")
    return row | {"prompt": f"{head}Message: [queue: {row['completion']}] {message}"}


def _wrong_field(count: int) -> list[Row]:
    """A field with another desk's guess, right by chance; and an example of another label."""
    r = random.Random(27)
    return [
        row
        | {
            "prompt": f"Example: refund please. Label: {r.choice(LABELS)}\n"
            + told_label(row | {"completion": r.choice(LABELS)})["prompt"]
        }
        for row in classified(count)
    ]


def _found_in_text(count: int) -> list[Row]:
    """A town that has to be found in a sentence."""
    maker = Maker(28)
    rows = []
    for _ in range(count):
        town = maker.random.choice(PLACES)
        text = (
            f"{maker.sentence()} It was then sold in {town} by the {maker.random.choice(PEOPLE)}."
        )
        rows.append({"prompt": f"{text}\nWhere was it sold?", "completion": town})
    return rows


def grouped(count: int, column: str, groups: int) -> list[Row]:
    """Rows with a key that several share."""
    r = random.Random(29)
    return [row | {column: f"P{r.randrange(groups)}"} for row in answered(count)]


def _json(count: int, every: int) -> list[Row]:
    """Records; each `every`-th with single quotes or without its end."""
    rows = extracted(count)
    return changed(rows, every, with_answer(lambda row: row["completion"].replace('"', "'")))


def _templates(count: int) -> list[Row]:
    """Answers in a notation that begins like JSON."""
    return [
        row | {"completion": "{{ " + " | ".join(json.loads(row["completion"])) + f" | {i} }}}}"}
        for i, row in enumerate(extracted(count))
    ]


def measured(rows: list[Row], held_out: int = 60, **evaluate: object) -> Case:
    """The last rows are the in-domain set."""
    # One of the two other sets is enough, and both take their time.
    sections = {"evaluate": {"in_domain": "{test.jsonl}", "out_of_domain": None, **evaluate}}
    return Case(rows[:-held_out], sections=sections, sets={"test": rows[-held_out:]})


def by_form(metric: str, rows: list[Row], *, schema: object = None, **evaluate: object) -> Case:
    """The verdict rests on the form of answers."""
    case = measured(rows, metrics=["loss", metric], primary={"in_domain": metric}, **evaluate)
    files = {} if schema is None else {"schema.json": json.dumps(schema)}
    return Case(case.train, case.sections, case.sets, files)


FLAWED_TWINS: dict[str, list[Case]] = {
    "scorer-accepts-anything": [
        by_form("regex", classified(280), regex=".*"),
        by_form("regex", classified(280), regex="^[A-Z]{2}$"),
        by_form("json_schema", extracted(280), schema=True, json_schema="{schema.json}"),
    ],
    "group-on-both-sides": [
        measured(grouped(300, "patient", 40)),
        replace(
            measured(grouped(300, "caseNumber", 40)), is_note=True
        ),  # a name that only may be one
    ],
    "answers-break-off": [Case(changed(answered(260), 5, broken_off))],
    "label-in-prompt": [
        Case([told_label(row) for row in classified(260)]),
        Case(_found_in_text(260), is_note=True),
    ],
    "roles-swapped": [Case(chats(260, swapped=4))],
    "answers-one-row-off": [Case(moved(explained(260), 1)), Case(moved(explained(260), -1))],
}

SOUND_TWINS: dict[str, Case] = {
    "a pattern of labels decides": by_form(
        "regex", classified(280), regex="^(billing|delivery|technical|praise)$"
    ),
    "a pattern that forbids": by_form("regex", answered(300), regex=r"\A(?!.*As an AI)"),
    "a schema that asks for keys": by_form(
        "json_schema",
        extracted(280),
        schema={"type": "object", "required": ["place", "price"]},
        json_schema="{schema.json}",
    ),
    "a category on both sides": measured(grouped(300, "department", 4)),
    "a user for each row": measured(
        [row | {"user": f"U{i}"} for i, row in enumerate(answered(300))]
    ),
    "lists and signatures without a full stop": Case(_lists()),
    "a field that guesses": Case(_wrong_field(260)),
    "a town to be found in a sentence": Case(_found_in_text(260)),
    "chats that the desk opens at times": Case(chats(260, greeted=4)),
    "two who speak alike": Case(alike(260)),
    "steps of one text": Case(_story(260)),
    "neighbours on one topic": Case(by_topic(270)),
    "a notation in braces": Case(_templates(260)),
}

JSON_IN_QUOTES = Case(_json(260, 3))
