"""Small Python functions from a description: over records (near) and over text (far)."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange

_RECORDS = (
    ("order", "orders", "price", ("quantity", "discount", "weight")),
    ("reading", "readings", "value", ("hour", "sensor", "altitude")),
    ("invoice", "invoices", "total", ("days_open", "tax", "reminders")),
    ("trip", "trips", "distance", ("duration", "passengers", "stops")),
    ("player", "players", "score", ("age", "games", "fouls")),
    ("parcel", "parcels", "weight", ("height", "zone", "insured_value")),
    ("book", "books", "pages", ("year", "copies", "rating")),
    ("house", "houses", "rent", ("rooms", "floor", "area")),
)
_TESTS = (
    ("is at least {n}", ">= {n}"),
    ("is below {n}", "< {n}"),
    ("is exactly {n}", "== {n}"),
    ("is not {n}", "!= {n}"),
    ("is a multiple of {n}", "% {n} == 0"),
)
_ASKS = (
    "Write a Python function `{name}` that takes a list of dicts, one per {one}, and {task}.",
    "I need `{name}({many})` in Python. Each {one} is a dict. It {task}.",
    "Given {many} as dictionaries, define `{name}` so that it {task}.",
    "Complete this: a function `{name}` over a list of {many} which {task}.",
)
_WORDS = (
    ("word", "text.split()"),
    ("line", "text.splitlines()"),
    ("field", 'text.split(",")'),
    ("sentence", 'text.split(". ")'),
)
_WORD_TESTS = (
    ("starts with '{c}'", '.startswith("{c}")'),
    ("ends in '{c}'", '.endswith("{c}")'),
    ("is written in capitals", ".isupper()"),
    ("contains only digits", ".isdigit()"),
    ("is a title", ".istitle()"),
)
_WORD_ENDS = (
    ("counts each {part} that {test}", "return sum(1 for part in parts if part{check})"),
    ("lists every {part} that {test}", "return [part for part in parts if part{check}]"),
    ("drops each {part} that {test}", 'return " ".join(part for part in parts if not part{check})'),
    (
        "finds the longest {part} that {test}",
        'found = [p for p in parts if p{check}]\n    return max(found, key=len, default="")',
    ),
    ("says whether any {part} {test}", "return any(part{check} for part in parts)"),
)


def near(rng: random.Random) -> Exchange:
    one, many, key, others = rng.choice(_RECORDS)
    other = rng.choice(others)
    said, check = rng.choice(_TESTS)
    n = rng.choice((2, 3, 5, 7, 10, 12, 18, 25, 40, 60, 100))
    condition = f'{one}["{other}"] {check.format(n=n)}'
    keep = f"[{one} for {one} in {many} if {condition}]"
    which = f"whose {other} {said.format(n=n)}"
    endings = (
        (
            "total",
            f"returns the sum of {key} over all {many} {which}",
            f'return sum({one}["{key}"] for {one} in {many} if {condition})',
        ),
        (
            "mean",
            f"returns the average {key} of the {many} {which}, or None if there are none",
            f"chosen = {keep}\n    if not chosen:\n        return None\n"
            f'    return sum({one}["{key}"] for {one} in chosen) / len(chosen)',
        ),
        (
            "largest",
            f"returns the {one} with the highest {key} among those {which}",
            f'chosen = {keep}\n    return max(chosen, key=lambda x: x["{key}"], default=None)',
        ),
        (
            "sorted",
            f"returns the {many} {which}, sorted by {key}",
            f'return sorted({keep}, key=lambda {one}: {one}["{key}"])',
        ),
        (
            "count",
            f"counts the {many} {which}",
            f"return sum(1 for {one} in {many} if {condition})",
        ),
        (
            "split",
            f"splits the {many} into those {which} and the rest",
            f"first, rest = [], []\n    for {one} in {many}:\n"
            f"        (first if {condition} else rest).append({one})\n    return first, rest",
        ),
        (
            "group",
            f"groups the {many} {which} by {key}",
            f"groups = {{}}\n    for {one} in {many}:\n        if {condition}:\n"
            f'            groups.setdefault({one}["{key}"], []).append({one})\n    return groups',
        ),
    )
    verb, task, body = rng.choice(endings)
    name = rng.choice(
        (f"{verb}_{key}", f"{verb}_of_{many}", f"{many}_{verb}", f"{verb}_by_{other}")
    )
    prompt = rng.choice(_ASKS).format(name=name, one=one, many=many, task=task)
    documented = rng.random() < 0.5
    note = f'    """{task[:1].upper()}{task[1:]}."""\n' if documented else ""
    return Exchange(prompt, f"def {name}({many}):\n{note}    {body}")


def far(rng: random.Random) -> Exchange:
    part, cut = rng.choice(_WORDS)
    said, check = rng.choice(_WORD_TESTS)
    letter = rng.choice("abcdefghklmnoprstuw")
    task, body = rng.choice(_WORD_ENDS)
    task = task.format(part=part, test=said.format(c=letter))
    name = rng.choice((f"pick_{part}", f"{part}_filter", f"check_{part}s", f"{part}s_of", "scan"))
    prompt = rng.choice(
        (
            f"Write `{name}(text)`, which {task}.",
            f"A Python function named {name} gets a string and {task}. Show it.",
            f"How would you code `{name}` so that it {task}?",
        )
    )
    code = body.replace("{check}", check.format(c=letter))
    return Exchange(prompt, f"def {name}(text):\n    parts = {cut}\n    {code}")
