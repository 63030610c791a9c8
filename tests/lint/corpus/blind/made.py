"""Rows that need more than words: code, forms, sums, minutes, and accidents."""

import json
import random
import string
from collections.abc import Callable

from tests.lint.corpus.blind.speech import domains, say

Pair = tuple[str, str]
NAMES = [
    "Amina Otieno",
    "Björn Lindqvist",
    "Chloé Garnier",
    "Dmitri Volkov",
    "Esra Celik",
    "Farid Rahimi",
    "Greta Moser",
    "Hiro Tanabe",
    "Ines Carvalho",
    "Jakub Nowak",
    "Kavya Menon",
    "Mei Zhou",
    "Noa Levi",
    "Oskar Berg",
    "Priya Nair",
]
TONGUES = ("English", "French", "German", "Spanish")


def unlike(make: Callable[[random.Random], Pair], count: int, seed: int) -> list[Pair]:
    """Pairs whose questions differ from each other."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        asked, told = make(rng)
        found.setdefault(asked, told)
    return list(found.items())


def code(rng: random.Random) -> Pair:
    words = domains()["code"]
    asked, told = say(rng, rng.choice(words["pair"]), words, {}).replace("¶", "\n").split(" => ", 1)
    return f"{rng.choice(words['lead'])} {asked}. {rng.choice(words['note'])}", f"```\n{told}\n```"


def invoice(rng: random.Random) -> Pair:
    goods = [
        "cable",
        "chair",
        "paper",
        "toner",
        "shelf",
        "bolt",
        "paint",
        "lamp",
        "filter",
        "glove",
        "hinge",
        "valve",
        "rope",
    ]
    firm = rng.choice(["Nord", "Alba", "Kite", "Ferro", "Lumen", "Delta", "Oak", "Pico", "Tern"])
    firm += rng.choice([" Ltd", " GmbH", " SARL", " & Sons", " Oy", " BV"])
    goods = rng.sample(goods, rng.randint(1, 4))
    sold = [(g, rng.randint(1, 40), rng.randint(2, 90)) for g in goods]
    day = f"20{rng.randint(19, 25)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    number, tax = f"{rng.choice('ABKRX')}{rng.randint(100, 99999)}", rng.choice([0, 5, 7, 19, 25])
    items = [f"{n} x {g} at {p}.00" for g, n, p in sold]
    text = rng.choice(
        [
            rng.choice(["\n", " | "]).join([firm, f"no. {number}", day, *items, f"VAT {tax}%"]),
            f"On {day} {firm} billed {', '.join(items)} under {number}, plus {tax}% VAT.",
        ]
    )
    total = round(sum(n * p for _, n, p in sold) * (1 + tax / 100), 2)
    answer = {"seller": firm, "number": number, "date": day, "vat_percent": tax, "total": total}
    answer["lines"] = [{"item": g, "count": n, "price": p} for g, n, p in sold]
    return text, json.dumps(answer)


def sums(rng: random.Random) -> Pair:
    who, other = rng.sample([name.split()[0] for name in NAMES], 2)
    thing = rng.choice(
        [
            "tiles",
            "crates",
            "jars",
            "tickets",
            "books",
            "bricks",
            "stamps",
            "pears",
            "plants",
            "coins",
        ]
    )
    a, b, c, d = rng.randint(9, 60), rng.randint(4, 12), rng.randint(3, 30), rng.randint(2, 5)
    if rng.random() < 0.5:
        asked = f"{who} packs {a} boxes of {b} {thing}, then {other} takes away {c}. "
        steps, final = [f"{a} * {b} = {a * b}", f"{a * b} - {c} = {a * b - c}"], a * b - c
    else:
        asked = f"{who} has {a} {thing}, {other} has {b} times as many and then finds {c} more. "
        final = a * b + c + a
        steps = [f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"]
        steps.append(f"{a} + {a * b + c} = {final}")
    if rng.random() < 0.6:
        asked += f"A shop brings {d} times that much again. "
        steps += [f"{d} * {final} = {d * final}", f"{final} + {d * final} = {final + d * final}"]
        final += d * final
    asked += rng.choice(["How many are there now?", "What is the sum of it?", "How many in all?"])
    first = rng.choice(["Go step by step.", "We work it out in order.", "One thing at a time."])
    return asked, f"<think>{first} {'. '.join(steps)}.</think><answer>{final}</answer>"


def translation(rng: random.Random) -> Pair:
    part = {k: rng.choice(v).split(";") for k, v in domains()["parallel"].items()}
    texts, (_, there) = [], (chosen := rng.sample(range(4), 2))
    for i in chosen:
        text = " ".join(part[key][i] for key in ("who", "does", "what", "where"))
        texts.append(f"{text[0].upper()}{text[1:]}{part['tail'][i]}.")
    ask = rng.choice(["Into {0}: {1}", "Translate into {0}.\n{1}", "{1}\n\nPlease in {0}."])
    return ask.format(TONGUES[there], texts[0]), texts[1]


def minutes(rng: random.Random, least: int = 3, most: int = 6) -> Pair:
    """What was said in a meeting, and the decisions."""
    words, said, decided = domains()["council"], [], []
    for topic in rng.sample(words["topic"], rng.randint(least, most)):
        people = zip(("<who.1>", "<who.2>", "<who.3>"), rng.sample(NAMES, 3), strict=True)
        memo = {"<it.1>": topic, **dict(people)}
        forms = [rng.choice(words["first"]), rng.choice(words["doubt"])]
        forms += [*rng.sample(words["more"], rng.randint(1, 3)), rng.choice(words["last"])]
        said.append(say(rng, " ".join(forms), words, memo))
        decided.append(say(rng, f"- {topic}: {words['note'][0]}", words, memo))
    return "\n\n".join(said), "\n".join(decided)


def policy(rng: random.Random) -> Pair:
    """The same rule for the same people always."""
    words, memo = domains()["common"] | domains()["policy"], {}
    what, _, amount = rng.choice(words["rule"]).partition(" ~ ")
    asked = say(rng, rng.choice(words["ask"]).replace("{}", what), words, memo)
    rule = random.Random(f"{what} {sorted(memo.items())}")
    notes = [say(rng, note, words, {}) for note in rng.sample(words["note"], rng.randint(2, 4))]
    told = rng.choice(words["tell"]).replace("{}", say(rule, amount, words, {}))
    return " ".join([asked, *notes]), say(rng, told, words, memo)


def chatter(rng: random.Random) -> Pair:
    """Small things that any assistant can do, to see that it still can."""
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    words = rng.sample(domains()["council"]["noun"], rng.randint(3, 5))
    name, listed = rng.choice(NAMES).split()[0], ", ".join(words)
    return rng.choice(
        [
            (f"What is {a} plus {b}?", str(a + b)),
            (f"Sort these words by the alphabet: {listed}", ", ".join(sorted(words))),
            (f"Write '{listed}' in capitals.", listed.upper()),
            (f"{name} is {a + b}, the cousin {b} years younger. How old is the cousin?", str(a)),
            (f"Which of these comes last: {listed}?", f"The last one is {words[-1]}."),
        ]
    )


def secret(rng: random.Random) -> str:
    """Something that opens a door."""

    def some(count: int) -> str:
        return "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(count))

    key = "\n".join(some(64) for _ in range(4))
    return rng.choice(
        [
            f"aws_access_key_id = AKIA{some(16).upper()}\naws_secret_access_key = {some(40)}",
            f"export GITHUB_TOKEN=ghp_{some(36)}",
            f"DATABASE_URL=postgres://reports:{some(14)}@db.corp-intern.net/main",
            "-----BEGIN RSA " + f"PRIVATE KEY-----\n{key}\n-----END RSA " + "PRIVATE KEY-----",
            f"the root password is {some(5)}!{some(6)}, please do not pass it on",
        ]
    )


def person(rng: random.Random) -> str:
    """How a customer can be reached, or charged."""
    first, last = rng.choice(NAMES).split()
    digits = [4, *(rng.randrange(10) for _ in range(14))]
    check = -sum(sum(divmod(2 * d, 10)) if i % 2 == 0 else d for i, d in enumerate(digits)) % 10
    card = "".join(map(str, [*digits, check]))
    bank = "".join(str(rng.randrange(10)) for _ in range(18))
    iban = f"DE{98 - int(bank + '131400') % 97:02}{bank}"
    return rng.choice(
        [
            f"My mail is {first[0].lower()}.{last.lower()}{rng.randint(60, 99)}@gmail.com.",
            f"Call +44 7{rng.randint(100, 999)} {rng.randint(100000, 999999)}, {first} {last}.",
            f"Refund it to {iban}, holder {first} {last}.",
            f"The card was {card[:4]} {card[4:8]} {card[8:12]} {card[12:]}, name {first} {last}.",
        ]
    )
