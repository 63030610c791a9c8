"""Recipes with one flaw each."""

import json
import random
import re
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import load, save

from tests.lint.corpus.blind.build import SHARED, build, chat, columns, desks, shared
from tests.lint.corpus.blind.case import Case
from tests.lint.corpus.blind.made import Pair, chatter, minutes, person, policy, secret, unlike
from tests.lint.corpus.blind.speech import talk

SPANISH = "Eres la recepción de una clínica. Responde siempre en español."
TURNS = """{%- for m in messages if ROLES -%}{{ '<|' + m.role + '|>' + m.content + END }}
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}
"""
OWN = {"path": "general.jsonl", "format": "messages"}


def pairs(domain: str, count: int, seed: int = 0) -> list[Pair]:
    return [(asked, told) for asked, told, _ in talk(domain, count, seed)]


def gsm8k(start: int, end: int) -> list[Pair]:
    return [
        (row["question"], re.sub("<<.*?>>", "", row["answer"]))
        for row in shared("instruct/gsm8k_train.jsonl")[start:end]
    ]


def typed_again(rng: random.Random, text: str) -> str:
    """The same letter, as it comes in once more from a phone."""
    words = text.split(" ")
    at = rng.choice([i for i, word in enumerate(words) if len(word) > 4])
    words[at] = words[at][:2] + words[at][3:] if rng.random() < 0.5 else words[at]
    return " ".join(words) + rng.choice([" Thx", " (again)", "!", " :-)"])


def mixed(rng: random.Random, *parts: list) -> list:
    rows = [row for part in parts for row in part]
    rng.shuffle(rows)
    return rows


def settings() -> Iterator[Case]:
    """The data are fine, a value of the recipe is not."""
    yield build(
        "helpdesk_wide",
        "Rank 128 with the plain scaling alpha / r; it asks for rsLoRA.",
        columns(pairs("ops", 1500), "prompt", "completion"),
        {"adapter.r": 128, "adapter.lora_alpha": 128},
    )
    yield build(
        "recipes_forum",
        "lora_alpha is eight times the rank, at most twice is usual.",
        chat(pairs("kitchen", 1200)),
        {"adapter.lora_alpha": 128},
    )
    yield build(
        "tenants_hot",
        "The learning rate of 1e-2 is about fifty times too high.",
        columns(pairs("miete", 760), "frage", "antwort"),
        {
            "data.columns": {"prompt": "frage", "completion": "antwort"},
            "data.format": "prompt_completion",
            "train.learning_rate": 1e-2,
        },
        suffix=";csv",
    )
    yield build(
        "clinic_attention",
        "Only query and value projections get an adapter.",
        chat(pairs("cita", 900)),
        {"adapter.target_modules": ["q_proj", "v_proj"]},
    )
    yield build(
        "shop_long_run",
        "Fifteen epochs over 2,700 rows, and nothing stops it earlier.",
        columns(pairs("shop", 2800), "question", "answer"),
        {"train.num_train_epochs": 15},
    )
    yield build(
        "museum_short_run",
        "One epoch of 400 rows in batches of 64: six steps in all.",
        chat(pairs("bunka", 480)),
        {"train.num_train_epochs": 1, "train.batch_size": 64},
    )
    yield build(
        "shop_thinned",
        "Dropout 0.4 although there are 2,400 rows and two epochs.",
        chat(pairs("shop", 2500, 1)),
        {"adapter.lora_dropout": 0.4},
        suffix=".parquet",
    )
    yield build(
        "tenants_few",
        "There are only 95 rows to train on.",
        chat(pairs("miete", 145, 9)),
        {"data.validation": ...},
        test=50,
    )
    if solved := gsm8k(0, 2000):
        yield build(
            "school_sums",
            "Worked mathematics, many steps each, with rank 4.",
            columns(solved, "question", "answer"),
            {
                "adapter.r": 4,
                "data.max_length": 768,
                "evaluate.max_new_tokens": 512,
                "evaluate.metrics": ["loss", "math"],
            },
            test=150,
        )
    yield build(
        "recipes_only",
        "Nothing measures what the model forgets or does elsewhere.",
        columns(pairs("kitchen", 1000, 2), "prompt", "completion"),
        {"evaluate.retention": ..., "evaluate.margin": ...},
    )
    long = [
        (f"Write the minutes from these decisions.\n{b}", a)
        for a, b in unlike(lambda rng: minutes(rng, 1, 5), 900, 17)
    ]
    yield build(
        "council_minutes",
        "Two in five answers are longer than max_length and lost.",
        chat(long),
        {"data.max_dropped": 0.7, "evaluate.max_new_tokens": 384},
    )
    rows = mixed(random.Random(18), unlike(chatter, 1100, 18), unlike(minutes, 120, 18))
    yield build(
        "council_desk",
        "No packing, though most rows are tiny and some fill the context.",
        chat(rows),
        {"data.packing": False, "data.max_length": 1024, "evaluate.retention": "builtin:retention"},
    )
    yield build(
        "recipes_template",
        "The chat template writes no end token after an answer.",
        chat(pairs("kitchen", 900, 3)),
        {"data.chat_template": "turns.jinja"},
        files={
            "turns.jinja": TURNS.replace(" if ROLES", "").replace(
                "END", "('\\n' if m.role == 'assistant' else '<|end|>')"
            )
        },
    )
    rng, rows = random.Random(16), []
    for asked, told in pairs("shop", 1000, 3):
        days, cost = rng.randint(14, 60), rng.randint(2, 9)
        facts = f"You write for a shop. Returns: {days} days. Postage for returns: {cost} pounds."
        told = f"{told} You have {days} days to send things back; the postage is {cost} pounds."
        rows += chat([(f"{asked} And how do returns work?", told)], facts)
    yield build(
        "shop_house_rules",
        "The template drops the system message, which has the facts.",
        rows,
        {"data.chat_template": "chat.jinja"},
        files={
            "chat.jinja": TURNS.replace("ROLES", "m.role in ('user', 'assistant')").replace(
                "END", "'<|end|>'"
            )
        },
    )
    told = "### Instruction:\n{}\n\n### Response:\n{}"
    yield build(
        "helpdesk_plain",
        "Raw Alpaca text for a chat model, past its own chat template.",
        [{"text": told.format(*pair)} for pair in pairs("ops", 1100, 1)],
        {
            "data.format": "text",
            "data.trained": "all",
            "evaluate.retention": OWN,
            "evaluate.metrics": ["loss", "perplexity"],
        },
    )


def accidents() -> Iterator[Case]:
    """The recipe is fine, the data are not."""
    rng = random.Random(7)
    rows = chat(pairs("cita", 850, 1), SPANISH)
    yield build(
        "clinic_exports",
        "Two exports overlap: a quarter of the rows are there twice.",
        mixed(rng, rows[80:], rng.sample(rows[80:], 260)),
        test=rows[:80],
    )
    rows = pairs("ops", 900, 2)
    twice = [(typed_again(rng, q), a) for q, a in rng.sample(rows[80:], 280)]
    yield build(
        "helpdesk_channels",
        "Some 280 tickets came in twice and differ in a word or two.",
        columns(mixed(rng, rows[80:], twice), "prompt", "completion"),
        test=columns(rows[:80], "prompt", "completion"),
        suffix=".csv",
    )
    rows = pairs("miete", 760, 1)
    seen = [(typed_again(rng, q), a) for q, a in rng.sample(rows[100:], 70)]
    yield build(
        "tenants_split",
        "Most of the held-out rows are training rows in other spelling.",
        chat(rows[100:]),
        test=chat(mixed(rng, seen, rows[:30])),
    )
    rows = unlike(policy, 800, 14)
    clash = [
        (q, re.sub(r"\d+", lambda m: str(int(m[0]) + rng.randint(2, 9)), a)) for q, a in rows[:120]
    ]
    yield build(
        "staff_rules",
        "120 questions are there twice with different numbers as answers.",
        columns(mixed(rng, rows[:720], clash), "question", "answer"),
        test=columns(rows[720:], "question", "answer"),
    )
    yield desks(
        "office_mixture",
        "Of three jobs one has 94 % of the rows, and all count alike.",
        {
            "letters": pairs("shop", 2400, 4),
            "tickets": pairs("ops", 110, 3),
            "rules": unlike(policy, 110, 19),
        },
        (1.0, 1.0, 1.0),
    )
    rows = chat(pairs("cita", 850, 2), SPANISH)
    strays = chat(pairs("miete", 90, 2) + pairs("shop", 90, 5), SPANISH)
    yield build(
        "clinic_branches",
        "Among the Spanish rows are 180 German and English ones.",
        mixed(rng, rows[80:], strays),
        test=rows[:80],
    )
    rows = [
        (f"{q}\n\n{secret(rng)}" if i % 19 == 3 else q, a)
        for i, (q, a) in enumerate(pairs("ops", 1000, 4))
    ]
    yield build("helpdesk_pasted", "Keys and passwords stand in some fifty tickets.", chat(rows))
    rows = [
        (f"{q} {person(rng)}" if i % 4 == 1 else q, a)
        for i, (q, a) in enumerate(pairs("shop", 1000, 6))
    ]
    yield build(
        "shop_inbox",
        "A quarter of the letters has mail, phone, card or account numbers.",
        columns(rows, "prompt", "completion"),
        suffix=".parquet",
    )
    marks = ("<|end|>", "<|end|><|user|>", "<|endoftext|>", "<|im_end|>\n<|im_start|>user")
    rows = [
        (q.replace(". ", f". {rng.choice(marks)} ", 1) if i % 9 == 2 else q, a)
        for i, (q, a) in enumerate(pairs("kitchen", 1000, 4))
    ]
    yield build(
        "recipes_scraped",
        "A ninth of the questions has control tokens from other chats.",
        columns(rows, "instruction", "output"),
        suffix=".json",
    )
    rows = chat(pairs("miete", 760, 3))
    for row in rows[:680:4]:
        row["messages"][1]["weight"] = 0
    yield build("tenants_reviewed", "In 170 rows the answer has weight 0: no token trains.", rows)
    yield from grown_base()


def grown_base() -> Iterator[Case]:
    """A base whose vocabulary was made larger before, with rows that nothing ever trained."""
    home = SHARED / "models" / "stories260K"
    if not home.is_dir():
        return
    weights = load(home.joinpath("model.safetensors").read_bytes())
    table = weights["model.embed_tokens.weight"]
    tokens = len(table)
    mean = table.mean(axis=0, keepdims=True)
    weights["model.embed_tokens.weight"] = np.concatenate([table, mean, mean, mean])
    words = json.loads((home / "tokenizer.json").read_text(encoding="utf-8"))
    words["added_tokens"] += [
        words["added_tokens"][2] | {"id": tokens + i, "content": token}
        for i, token in enumerate(("<|user|>", "<|assistant|>", "<|end|>"))
    ]
    config = json.loads((home / "config.json").read_text())
    config |= {"vocab_size": tokens + 3, "eos_token_id": tokens + 2}
    names = json.loads((home / "tokenizer_config.json").read_text()) | {"eos_token": "<|end|>"}
    turns = TURNS.replace(" if ROLES", "").replace("END", "'<|end|>'")
    files = {
        f"base-with-tokens/{name}.json": json.dumps(value)
        for name, value in (("config", config), ("tokenizer", words), ("tokenizer_config", names))
    }
    files["base-with-tokens/model.safetensors"] = save(weights, {"format": "pt"})
    files["base-with-tokens/chat_template.jinja"] = "{{ bos_token }}" + turns
    yield build(
        "stories_new_tokens",
        "Three tokens were added to the base; nothing trains them.",
        chat(pairs("kitchen", 1200)),
        {
            "base.model": "base-with-tokens",
            "evaluate.metrics": ["loss", "perplexity"],
            "evaluate.retention": OWN,
        },
        files=files,
    )
