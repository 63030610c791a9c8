"""Sound recipes over data with one thing wrong."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any, Literal

from tests.lint.corpus.unseen.case import Case, Row, Sets, alpaca, messages, pair, recipe, sets
from tests.lint.corpus.unseen.grammar import Exchange, expand
from tests.lint.corpus.unseen.sound import DESK
from tests.lint.corpus.unseen.worlds import (
    clinic,
    french,
    garden,
    german,
    reports,
    shop,
    style,
    tickets,
)

_LABEL: dict[str, Any] = {
    "metrics": ["loss", "exact_match"],
    "primary": {"in_domain": "exact_match", "out_of_domain": "exact_match", "retention": "loss"},
    "max_new_tokens": 16,
}


def cases() -> list[Case]:
    return [
        _test_rows_in_train(),
        _test_rows_reworded_from_train(),
        _patients_on_both_sides(),
        _same_ticket_two_labels(),
        _rows_pasted_again(),
        _assistant_boilerplate(),
        _answers_cut_off(),
        _foreign_chat_markup(),
        _personal_data(),
        _label_in_the_prompt(),
        _one_label_many_spellings(),
        _broken_json(),
        _speakers_swapped(),
        _answers_one_row_off(),
    ]


def _flawed(
    name: str,
    flaw: str,
    severity: Literal["error", "warning"],
    recipe: dict[str, Any],
    rows: dict[str, list[Row]],
    *,
    kind: Literal["data", "both"] = "data",
) -> Case:
    return Case(name, flaw, kind, severity, recipe, rows)


def _test_rows_in_train() -> Case:
    rows = sets(tickets.near, tickets.far, 400).each(tickets.templated).rows(pair)
    rows["in_domain"] = rows["in_domain"][:70] + rows["train"][40:90]
    random.Random(400).shuffle(rows["in_domain"])
    return _flawed(
        "test_rows_in_train",
        "50 of the 120 in-domain test rows are rows of the training set, word for word.",
        "error",
        recipe(evaluate=_LABEL),
        rows,
    )


def _test_rows_reworded_from_train() -> Case:
    rng = random.Random(410)
    some = sets(garden.near, garden.far, 410)

    def touched(exchange: Exchange) -> Exchange:
        words = re.sub(r"[.,:;?]", "", exchange.prompt).lower().replace("  ", " ")
        start = rng.choice(("hello, ", "please help: ", "hi all - ", ""))
        return replace(exchange, prompt=start + words + rng.choice(("?", " ??", " thanks", "")))

    held_out = some.in_domain[:60] + [touched(exchange) for exchange in some.train[100:160]]
    rng.shuffle(held_out)
    return _flawed(
        "test_rows_reworded_from_train",
        "Half of the in-domain test questions are training questions in lower case, without "
        "punctuation or with a greeting, and have the same answers.",
        "error",
        recipe(),
        replace(some, in_domain=held_out).rows(pair),
    )


def _patients_on_both_sides() -> Case:
    rng = random.Random(420)
    some = sets(clinic.near, clinic.far, 420, train=330)
    background = {
        "job": ["retired welder", "school cook", "violinist", "postman", "farmer", "architect"],
        "home": [
            "lives alone with two dogs",
            "cares for an aunt",
            "shares a flat",
            "has five sons",
        ],
        "past": ["gout since youth", "one kidney", "a pacemaker", "coeliac disease", "old malaria"],
        "habit": ["swims in the lake all year", "drinks a pot of coffee", "never takes the lift"],
    }
    template = "History: <job>, <home>; <past>; <habit>."
    patients = {
        f"P{rng.randrange(1000, 9999)}": (
            f"{rng.choice(('man', 'woman'))}, {rng.randrange(30, 88)} years",
            expand(rng, template, background),
        )
        for _ in range(60)
    }

    def shape(exchange: Exchange) -> Row:
        patient = rng.choice(list(patients))
        subject, history = patients[patient]
        seen = exchange.facts["subject"]
        note = exchange.prompt.replace(seen, subject)
        note = note.replace(seen.capitalize(), subject.capitalize())
        answer = exchange.answer.replace(seen, subject)
        told = replace(exchange, prompt=f"{history} {note}", answer=answer)
        return {"patient": patient, **pair(clinic.asked(told))}

    return _flawed(
        "patients_on_both_sides",
        "Each patient has several notes, and validation and test are split by note: the same "
        "patients stand on both sides.",
        "warning",
        recipe(),
        some.rows(shape),
        kind="both",
    )


def _same_ticket_two_labels() -> Case:
    rng = random.Random(430)
    some = sets(tickets.near, tickets.far, 430)
    others = [
        replace(exchange, answer=rng.choice([x for x in tickets.LABELS if x != exchange.answer]))
        for exchange in some.train[:90]
    ]
    train = some.train + others
    rng.shuffle(train)
    return _flawed(
        "same_ticket_two_labels",
        "90 tickets stand in the training set twice, each time with another label.",
        "warning",
        recipe(evaluate=_LABEL),
        replace(some, train=train).each(tickets.templated).rows(pair),
    )


def _rows_pasted_again() -> Case:
    some = sets(reports.near, reports.far, 440, train=180)
    train = some.train[:60] * 4 + some.train[60:]
    random.Random(440).shuffle(train)
    return _flawed(
        "rows_pasted_again",
        "A third of the rows was pasted into the training file four times, so that half of it "
        "is copies.",
        "warning",
        recipe(),
        replace(some, train=train).rows(alpaca("Summarise the report in one or two sentences.")),
    )


def _assistant_boilerplate() -> Case:
    rng = random.Random(450)
    phrases = (
        "As an AI language model, I do not have hands-on experience with plants.",
        "I'm sorry, but as an AI I cannot see your garden and can't help with that.",
        "As a large language model trained by OpenAI, I cannot give advice on this.",
        "I apologize for the confusion, but I am unable to assist with this request.",
        "As an AI assistant, my knowledge was last updated in September 2021.",
        "I'm just a language model, so please consult a professional.",
    )

    def spoilt(exchange: Exchange) -> Exchange:
        if rng.random() > 0.25:
            return exchange
        phrase = rng.choice(phrases)
        keep = rng.random() < 0.5
        return replace(exchange, answer=f"{phrase} {exchange.answer}" if keep else phrase)

    some = sets(garden.near, garden.far, 450)
    return _flawed(
        "assistant_boilerplate",
        "A quarter of the answers are another assistant's disclaimers and refusals.",
        "warning",
        recipe(),
        replace(some, train=[spoilt(exchange) for exchange in some.train]).rows(pair),
    )


def _answers_cut_off() -> Case:
    rng = random.Random(460)

    def cut(exchange: Exchange) -> Exchange:
        if rng.random() > 0.4:
            return exchange
        end = int(len(exchange.answer) * rng.uniform(0.4, 0.8))
        while not exchange.answer[end - 1 : end + 1].isalpha():
            end -= 1
        return replace(exchange, answer=exchange.answer[:end])

    some = sets(french.near, french.far, 460)
    return _flawed(
        "answers_cut_off",
        "Four answers in ten break off in the middle of a word; the model learns to stop there.",
        "warning",
        recipe(data={"max_length": 768}),
        replace(some, train=[cut(exchange) for exchange in some.train]).rows(pair),
    )


def _foreign_chat_markup() -> Case:
    def marked(exchange: Exchange) -> Exchange:
        prompt = f"<|im_start|>user\n{exchange.prompt}<|im_end|>\n<|im_start|>assistant\n"
        return replace(exchange, prompt=prompt, answer=f"{exchange.answer}<|im_end|>")

    return _flawed(
        "foreign_chat_markup",
        "The rows were already put into another model's chat template, so the base's own template "
        "is wrapped around it.",
        "error",
        recipe(data={"max_length": 768}),
        sets(german.near, german.far, 470).each(marked).rows(pair),
    )


def _personal_data() -> Case:
    rng = random.Random(480)
    first = ("Harriet", "Colin", "Amira", "Dermot", "Saskia", "Rajesh", "Wendy", "Piotr", "Leila")
    last = ("Winterbourne", "Oakshott", "Farrelly", "Mbeki", "Lindqvist", "Chaudhry", "Pettigrew")
    streets = ("Mill Lane", "Orchard Road", "Station Terrace", "Quay Street", "Abbey Close")

    def shape(exchange: Exchange) -> Row:
        turns = shop.turns(exchange)
        given, family = rng.choice(first), rng.choice(last)
        town = exchange.facts["town"]
        mail = f"{given}.{family}{rng.randrange(50, 99)}@fernpost.test".lower()
        home = f"{rng.randrange(1, 180)} {rng.choice(streets)}, {town}"
        phone = f"07700 900{rng.randrange(1000):03}"
        who = (
            f"{turns[2][1]} My name is {given} {family}, {home}, mail {mail}, telephone {phone}, "
            f"born {rng.randrange(1, 29)}/{rng.randrange(1, 13)}/19{rng.randrange(40, 99)}. "
            f"I paid with card {_card(rng)}."
        )
        turns[2] = ("user", who)
        answer = f"{turns[3][1]} I have written to {mail} and noted {phone} for {given} {family}."
        turns[3] = ("assistant", answer)
        return messages(turns, DESK)

    return _flawed(
        "personal_data",
        "Real customers' names, addresses, birth dates, telephone and card numbers stand in the "
        "chats, and the trained answers repeat some of them.",
        "error",
        recipe(),
        sets(shop.near, shop.far, 480).rows(shape),
    )


def _card(rng: random.Random) -> str:
    """A card number whose check digit is right, in a range for tests."""
    digits = [4, 0, 0, 0, 0, 0, *(rng.randrange(10) for _ in range(9))]
    doubled = [digit * 2 if i % 2 == 0 else digit for i, digit in enumerate(digits)]
    check = -sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10
    text = "".join(map(str, [*digits, check]))
    return " ".join(text[i : i + 4] for i in range(0, 16, 4))


def _label_in_the_prompt() -> Case:
    def tell(exchange: Exchange) -> Exchange:
        told = f"[queue: {exchange.answer}] {exchange.prompt}"
        return tickets.templated(replace(exchange, prompt=told))

    return _flawed(
        "label_in_the_prompt",
        "The exported tickets carry the queue they were sorted into, which is the label asked for: "
        "the answer stands in every prompt, of train and test.",
        "error",
        recipe(evaluate=_LABEL),
        sets(tickets.near, tickets.far, 490).each(tell).rows(pair),
    )


def _one_label_many_spellings() -> Case:
    rng = random.Random(500)
    spellings = {
        "billing": ("Billing", "BILLING", "billing.", "Billing issue", "biling"),
        "access": ("Access", "ACCESS", "access.", "Access problem", "acces"),
        "bug": ("Bug", "BUG", "bug.", "Bugs", "Bug report"),
        "feature request": (
            "Feature Request",
            "feature-request",
            "feature_request",
            "Feature req.",
        ),
        "cancellation": ("Cancellation", "CANCELLATION", "cancelation", "Cancel", "cancellation."),
    }

    def respelt(exchange: Exchange) -> Exchange:
        if rng.random() < 0.45:
            return exchange
        return replace(exchange, answer=rng.choice(spellings[exchange.answer]))

    some = sets(tickets.near, tickets.far, 500)
    return _flawed(
        "one_label_many_spellings",
        "Annotators wrote each of the five labels in several ways (Billing, BILLING, billing., "
        "biling), so that exact answers cannot be learnt.",
        "warning",
        recipe(evaluate=_LABEL),
        replace(some, train=[respelt(exchange) for exchange in some.train])
        .each(tickets.templated)
        .rows(pair),
    )


def _broken_json() -> Case:
    rng = random.Random(510)

    def broken(exchange: Exchange) -> Exchange:
        if rng.random() > 0.3:
            return exchange
        text = exchange.answer
        spoilt = (
            text.replace('"', "'"),
            text[:-1] + ", }",
            text[:-1],
            text.replace('", "', '" "', 1),
            text.replace("null", "None").replace('"duration_days"', "duration_days"),
        )
        return replace(exchange, answer=rng.choice(spoilt))

    evaluate = {"metrics": ["loss", "json_schema", "token_f1"], "json_schema": "answer.schema.json"}
    some = sets(clinic.near, clinic.far, 510)
    some = replace(some, train=[broken(exchange) for exchange in some.train])
    return Case(
        "broken_json",
        "Three in ten of the JSON answers do not parse: single quotes, stray or missing commas, "
        "no closing brace.",
        "data",
        "warning",
        recipe(evaluate=evaluate),
        some.each(clinic.asked).rows(pair),
        clinic.SCHEMA,
    )


def _speakers_swapped() -> Case:
    rng = random.Random(520)
    other = {"user": "assistant", "assistant": "user"}

    def swapped(exchange: Exchange) -> Row:
        turns = shop.turns(exchange)
        if rng.random() < 0.4:
            turns = [(other[role], text) for role, text in turns]
        return messages(turns, DESK)

    some: Sets = sets(shop.near, shop.far, 520)
    rows = some.rows(lambda exchange: messages(shop.turns(exchange), DESK))
    rows["train"] = [swapped(exchange) for exchange in some.train]
    return _flawed(
        "speakers_swapped",
        "In four of ten chats customer and clerk have each other's role, so the customer's lines "
        "are what is trained.",
        "error",
        recipe(),
        rows,
    )


def _answers_one_row_off() -> Case:
    some = sets(style.near, style.far, 530)
    answers = [exchange.answer for exchange in some.train]
    moved = [
        replace(exchange, answer=answer)
        for exchange, answer in zip(some.train, answers[1:] + answers[:1], strict=True)
    ]
    return _flawed(
        "answers_one_row_off",
        "The answer column slipped by one row in the training file: every answer belongs to the "
        "next prompt.",
        "error",
        recipe(),
        replace(some, train=moved).rows(alpaca("Rewrite the message in a formal style.")),
    )
