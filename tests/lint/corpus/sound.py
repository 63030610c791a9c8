"""Sound recipes and data: none may get an error or a warning, however odd they look."""

from __future__ import annotations

from pathlib import Path

from lorakit.lint.hardware import Hardware
from tests import tiny
from tests.lint.corpus.case import Case
from tests.lint.corpus.rows import (
    BREVITY,
    LABELS,
    NOUNS,
    PEOPLE,
    PLACES,
    Maker,
    Row,
    answered,
    asked,
    changed,
    classified,
    dialogues,
    extracted,
    sums,
    with_answer,
)
from tests.lint.corpus.tongues import MIXED_ON_PURPOSE
from tests.lint.corpus.twins import SOUND_TWINS

GPU = Hardware("cuda", "NVIDIA H200", has_bfloat16=True, chosen=False)


def _held(rows: list[Row], **sections: dict) -> Case:
    """The last rows are the in-domain set."""
    train, test = rows[:-40], rows[-40:]
    evaluate = {"in_domain": "{test.jsonl}"} | sections.pop("evaluate", {})
    return Case(train, sections={"evaluate": evaluate, **sections}, sets={"test": test})


def _base_without_template(folder: Path) -> Path:
    folder.mkdir()
    tiny.tokenizer(chat_template=None).save_pretrained(folder)
    config = tiny.config(max_position_embeddings=2048)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return folder


def _topics() -> list[Row]:
    """One formula about many topics, as in encyclopedias."""
    rows = []
    for i, noun in enumerate(NOUNS):
        for person in PEOPLE[: 6 if i else 5]:
            name = f"{noun} {person} syndrome"
            rows.append(
                {
                    "prompt": f"Is {name} inherited?",
                    "completion": "This condition is inherited in an autosomal recessive pattern, "
                    "which means both copies of the gene in each cell have mutations.",
                }
            )
    return rows


def _translations() -> list[Row]:
    german = (
        "Der Arzt in {c} prüft den Verband und spricht danach lange mit der Schwester über die "
        "Dosis "
        "der {i}. Tablette, weil das Fieber seit gestern nicht gesunken ist."
    )
    english = (
        "The doctor in {c} checks the bandage and then talks to the nurse for a long time about "
        "the "
        "dose of tablet number {i}, because the fever has not fallen since yesterday."
    )
    rows = []
    for i in range(240):
        values = {"c": PLACES[i % len(PLACES)], "i": i}
        rows.append(
            {
                "prompt": f"Translate into German: {english.format(**values)}",
                "completion": german.format(**values),
            }
        )
    return rows


def _several_answers() -> list[Row]:
    """Two good answers to each question."""
    maker = Maker(11)
    asked = [maker.question() for _ in range(130)]
    return [{"prompt": q, "completion": maker.prose()} for q in asked for _ in range(2)]


def _html() -> list[Row]:
    maker = Maker(12)
    return [
        {
            "prompt": f"Write an HTML page with the heading {maker.question()!r}",
            "completion": f"<html><h1>{maker.sentence()}</h1><p>{maker.sentence()}</p></html>",
        }
        for _ in range(260)
    ]


def _code() -> list[Row]:
    maker, rows = Maker(13), []
    for i in range(260):
        name, noun = maker.random.choice(NOUNS), maker.random.choice(NOUNS)
        body = f"def {name}_{i}({noun}, limit={i}):\n    return [{noun}[k] for k in range(limit)]"
        rows.append(
            {
                "prompt": f"Write Python that takes {i} items of {noun} for {name}.",
                "completion": body,
            }
        )
    return rows


def _thinking() -> list[Row]:
    maker = Maker(14)
    return [
        {
            "messages": [
                {"role": "user", "content": maker.question()},
                {
                    "role": "assistant",
                    "content": f"<think>{maker.prose()}</think>{maker.sentence()}",
                },
            ]
        }
        for _ in range(260)
    ]


def _contacts() -> list[Row]:
    rows = answered(260)
    told = " Call the clinic at 555-0134 or write to info@example.org."
    return changed(rows, 6, with_answer(lambda row: row["completion"] + told))


def _placeholders() -> list[Row]:
    told = " Set API_KEY=your_api_key_here and password: changeme-example-123."
    return changed(answered(260), 9, with_answer(lambda row: row["completion"] + told))


def _numbers() -> list[Row]:
    """Order numbers and measurements that are no card numbers."""
    maker, rows = Maker(15), answered(260)
    for row in rows:
        row["completion"] += (
            f" Order {maker.random.randrange(10**11, 10**12)}, {maker.random.random()}."
        )
    return rows


def _documents() -> list[Row]:
    """Long documents with short labels."""
    maker = Maker(16)
    return [
        {
            "prompt": f"{maker.prose(8, 14)}\nWhat is this about? Label:",
            "completion": maker.random.choice(LABELS),
        }
        for _ in range(260)
    ]


def _symbols() -> list[Row]:
    """Prompts that differ in a sign alone."""
    return [
        {"prompt": f"{a} {sign} {b} =", "completion": str(a + b if sign == "+" else a - b)}
        for a in range(10, 23)
        for b in range(1, 11)
        for sign in "+-"
    ]


def _negations() -> list[Row]:
    rows = answered(130)
    return rows + [
        {"prompt": row["prompt"].replace(" the ", " not the ", 1), "completion": Maker(i).prose()}
        for i, row in enumerate(rows)
    ]


def _german() -> list[Row]:
    rows = []
    for i, noun in enumerate((*PEOPLE, *PLACES, *NOUNS) * 3):
        rows.append(
            {
                "prompt": f"Wie geht es weiter mit dem Fall {noun} Nummer {i}, und wer hilft?",
                "completion": f"Die Schwester auf Station {i} hilft {noun}. Der Arzt kommt um "
                f"{i % 12} Uhr und bespricht dann mit den Angehörigen, wie die Behandlung "
                "weitergeht.",
            }
        )
    return rows


SOUND: dict[str, Case] = {
    "questions and answers": _held(answered(300)),
    "the built-in notes": Case(
        [], sections={"data": {"train": "builtin:train"}, "train": {"num_train_epochs": 2}}
    ),
    "labels under one long instruction": _held(classified(300)),
    "an uneven class": _held(classified(300, shares=(85, 5, 5, 5))),
    "sums from one template": _held(sums(300), adapter={"r": 32, "lora_alpha": 64}),
    "questions that rewards of one's own decide about": Case(
        asked(300),
        sections={
            "train": {"method": "grpo", "batch_size": 64, "learning_rate": 2e-5},
            "grpo": {"rewards": ["tags"]},
            "adapter": {"r": 32, "lora_alpha": 64},
        },
    ),
    "a policy warmed under the system message that it is asked with": Case(
        asked(300),
        sections={
            "data": {"system": "You are brief."},
            "train": {"method": "grpo", "batch_size": 64, "learning_rate": 2e-5},
            "grpo": {"rewards": [{"name": "{rewards.py:brevity}", "options": {"limit": 40}}]},
            "warm_start": {"train": "{traces.jsonl}"},
            "adapter": {"r": 32, "lora_alpha": 64},
        },
        sets={"traces": dialogues(260, system="You are brief.")},
        files={"rewards.py": BREVITY},
    ),
    "prompts that differ in a sign": Case(_symbols()),
    "prompts that differ in a negation": Case(_negations()),
    "JSON answers": _held(extracted(300)),
    "dialogues with a system message": _held(dialogues(260, system="You are brief.")),
    "one formula about many topics": Case(_topics()[::3] + answered(500)),
    "translations": _held(_translations()),
    "two good answers each": Case(_several_answers()),
    "HTML that is asked for": Case(_html()),
    "code": Case(_code()),
    "thinking everywhere": _held(_thinking(), adapter={"r": 32, "lora_alpha": 64}),
    "contact details of a clinic": Case(_contacts()),
    "placeholders of secrets": Case(_placeholders()),
    "long numbers": Case(_numbers()),
    "long documents, short labels": _held(_documents()),
    # Written without a German held-out set. Mended on 2026-11-29 because the rule languages-mixed
    # accused it, with reason: it was measured on the harness's English notes alone.
    "German": _held(_german()),
    "high rank with rsLoRA": _held(
        answered(300), adapter={"r": 128, "lora_alpha": 16, "use_rslora": True}
    ),
    "LoRA+, linear, steps": _held(
        answered(300),
        train={
            "num_train_epochs": None,
            "max_steps": 120,
            "loraplus_lr_ratio": 16.0,
            "warmup_steps": 5,
        },
    ),
    "a base without a template": Case(answered(260), base=_base_without_template),
    "plain text on such a base": Case(
        [{"text": Maker(n).prose(3, 6)} for n in range(240)], base=_base_without_template
    ),
    "bfloat16 on a GPU": Case(
        answered(260), sections={"base": {"dtype": "bfloat16"}}, hardware=GPU
    ),
    "few refusals that are meant": _held(
        changed(
            answered(300), 30, with_answer(lambda row: "I'm sorry, but I can't help with that.")
        )
    ),
    "general rows in small doses": Case(
        answered(240),
        sections={"data": {"train": ["{train.jsonl}", {"path": "builtin:general", "weight": 0.1}]}},
    ),
    **MIXED_ON_PURPOSE,
    **SOUND_TWINS,
}
