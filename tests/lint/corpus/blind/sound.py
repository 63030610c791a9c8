"""Recipes that are right in different ways."""

import json
import random
import re
from collections.abc import Iterator

from tests.lint.corpus.blind.build import SHARED, build, chat, columns, desks, shared
from tests.lint.corpus.blind.case import Case
from tests.lint.corpus.blind.flawed import OWN, SPANISH, gsm8k, mixed, pairs
from tests.lint.corpus.blind.made import code, invoice, minutes, sums, translation, unlike
from tests.lint.corpus.blind.speech import talk

TOPICS = ["damage", "delivery", "exchange", "address", "guarantee", "invoice", "size"]


def plain() -> Iterator[Case]:
    """Short answers, braces, many languages, the same words again: all of it meant."""
    yield build(
        "phrases",
        None,
        chat(unlike(translation, 1120, 1)),
        {"evaluate.metrics": ["loss", "exact_match", "token_f1"]},
        test=120,
    )
    rows = [{"letter": q, "label": TOPICS[t]} for q, _, t in talk("shop", 1100, 31)]
    yield build(
        "ticket_labels",
        None,
        rows,
        {
            "data.columns": {"prompt": "letter", "completion": "label"},
            "evaluate.max_new_tokens": 8,
            "data.format": "prompt_completion",
            "data.system": f"Topic? {', '.join(TOPICS)}",
            "evaluate.metrics": ["loss", "exact_match"],
        },
        suffix=".csv",
        test=150,
    )
    yield build("snippets", None, columns(unlike(code, 700, 3), "instruction", "output"))
    rule = "Du bist die Hausverwaltung Lindenhof. Antworte höflich und nenne nie Namen Dritter."
    yield build(
        "tenants_qlora",
        None,
        chat(pairs("miete", 430, 32), rule),
        {
            "base.quantization": "nf4",
            "adapter.use_dora": True,
            "train.num_train_epochs": 5,
            "data.validation": 0.1,
            "train.early_stopping_patience": 2,
        },
    )
    rows, rng = [], random.Random(5)
    for asked, told in pairs("shop", 900, 33):
        turns = [
            ("human", asked),
            ("gpt", told),
            ("human", "Thank you, that is all."),
            ("gpt", "You're welcome. Have a nice day!"),
        ]
        if rng.random() < 0.4:
            turns = [("human", "Hello?"), ("gpt", "Hello! How can I help?"), *turns]
        rows.append({"conversations": [{"from": who, "value": text} for who, text in turns]})
    yield build("shop_dialogues", None, rows)
    yield build(
        "shop_once",
        None,
        columns(pairs("shop", 2980, 34), "prompt", "completion"),
        {"train.num_train_epochs": 1, "train.batch_size": 8},
    )
    yield build(
        "council_digests",
        None,
        chat(unlike(minutes, 560, 35), "List the decisions."),
        {"data.max_length": 1024, "evaluate.max_new_tokens": 320, "train.batch_size": 8},
    )
    schema = {"type": "object", "required": ["seller", "number", "date", "total", "lines"]}
    yield build(
        "invoices",
        None,
        columns(unlike(invoice, 1300, 36), "prompt", "completion"),
        {
            "evaluate.metrics": ["loss", "json_schema", "exact_match"],
            "evaluate.json_schema": "schema.json",
            "data.max_length": 640,
        },
        files={"schema.json": json.dumps(schema)},
        suffix=".parquet",
    )
    yield build("clinic_table", None, chat(pairs("cita", 880, 37), SPANISH), suffix=".parquet")
    rows = [
        (f"{q} Order [ORDER_ID], [NAME], [EMAIL]", f"Dear [NAME], {a} [AGENT]")
        for q, a in pairs("shop", 1000, 38)
    ]
    yield build("shop_masked", None, columns(rows, "question", "answer"), suffix=";csv")
    rows = [
        (
            f"{q} Write to reader{rng.randint(10, 9999)}@example.com or 555-01{len(a) % 90 + 10}.",
            f"{q} Write to [EMAIL] or [PHONE].",
        )
        for q, a in pairs("shop", 900, 39)
    ]
    yield build("redaction", None, chat(rows, "Replace addresses and numbers by placeholders."))
    yield build(
        "two_tongues",
        None,
        chat(
            mixed(random.Random(40), pairs("cita", 650, 40), pairs("shop", 650, 40)),
            "Answer in the language of the letter: English or Spanish.",
        ),
    )


def special() -> Iterator[Case]:
    """High ranks, mixtures, new tokens, and texts of other people."""
    rng, rows = random.Random(41), []
    by_way = {told: (asked, told) for asked, told in unlike(sums, 1500, 41)}  # no sum twice
    for asked, told in by_way.values():
        right = int(re.findall(r"<answer>(\d+)", told)[0])
        given = rng.sample([right, right + 7, right + 18, 10 * right], 4)
        rows.append(
            {
                "question": asked,
                "options": [str(n) for n in given],
                "answer": "ABCD"[given.index(right)],
                "explanation": re.sub(r"<think>.*?\. |</think>.*", "", told),
            }
        )
    yield build(
        "sums_to_choose",
        None,
        rows,
        {
            "adapter.r": 32,
            "evaluate.metrics": ["loss", "choice"],
            "evaluate.primary": {"in_domain": "choice"},
        },
        test=150,
    )
    yield build(
        "sums_aloud",
        None,
        chat(unlike(sums, 2000, 42)),
        {"adapter.r": 32, "evaluate.metrics": ["loss", "math"]},
        test=150,
    )
    yield desks(
        "three_desks",
        None,
        {
            "letters": pairs("shop", 1440, 43),
            "tickets": pairs("ops", 740, 43),
            "kitchen": pairs("kitchen", 390, 43),
        },
        (0.5, 1.0, 2.0),
    )
    marked = [
        (
            q,
            re.sub(
                r"- (.*): (.*) \((.*), (\d+ weeks), (.*)\)", r"<item>\1<todo>\2<owner>\3<due>\4", a
            ),
        )
        for q, a in unlike(lambda rng: minutes(rng, 2, 4), 900, 44)
    ]
    yield build(
        "council_marks",
        None,
        columns(marked, "prompt", "completion"),
        {"base.add_tokens": ["<item>", "<todo>", "<owner>", "<due>"], "data.max_length": 1024},
    )
    if solved := gsm8k(3000, 5200):
        yield build(
            "school_maths",
            None,
            columns(solved, "question", "answer"),
            {
                "adapter.r": 32,
                "data.max_length": 768,
                "evaluate.max_new_tokens": 512,
                "evaluate.metrics": ["loss", "math"],
            },
            test=200,
        )
    rows = shared("medquad/small_train_2000.jsonl")
    for part in (slice(40), slice(-40, None)):
        rows = list({r["answer"][part]: r for r in rows}.values())
    if rows := list({r["question"]: r for r in rows}.values()):
        yield build(
            "medical_rslora",
            None,
            rows,
            {
                "adapter.r": 128,
                "adapter.lora_alpha": 16,
                "adapter.use_rslora": True,
                "data.group": "focus",
                "data.max_length": 768,
                "train.learning_rate": 1e-4,
                "evaluate.max_new_tokens": 480,
                "evaluate.in_domain": ...,
                "evaluate.out_of_domain": "data/test.jsonl",
            },
            test=shared("medquad/small_test_300.jsonl"),
        )
    parts = SHARED / "tiny_shakespeare.txt"
    text = parts.read_text(encoding="utf-8") if parts.is_file() else ""
    lines = [s.split("\n")[1:] for s in text.split("\n\n")]
    if lines := [s for s in lines if 8 <= len(s) <= 24][:1100]:
        rows = [("Go on in blank verse:\n" + "\n".join(s[:3]), "\n".join(s[3:])) for s in lines]
        yield build("blank_verse", None, chat(rows), {"evaluate.max_new_tokens": 400})
    home = SHARED / "models" / "stories260K"
    if home.is_dir():
        notes = [{"text": a} for a, _ in unlike(lambda rng: minutes(rng, 1, 1), 1200, 45)]
        yield build(
            "raw_notes",
            None,
            notes,
            {
                "base.model": str(home),
                "data.format": "text",
                "data.trained": "all",
                "evaluate.metrics": ["loss", "perplexity"],
                "evaluate.retention": OWN,
            },
        )
