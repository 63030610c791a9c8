"""Flawed recipes and data by the rule that must find them, at least one each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.lint.hardware import Hardware
from tests import tiny
from tests.lint.corpus.case import Case
from tests.lint.corpus.rows import (
    BREVITY,
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
from tests.lint.corpus.tongues import MIXED_BY_MISTAKE
from tests.lint.corpus.twins import FLAWED_TWINS, JSON_IN_QUOTES

# A micro-batch of many rows, so that short ones meet long ones.
WIDE = {"batch_size": 32, "micro_batch_tokens": 16_384}
OLD_GPU = Hardware("cuda", "Tesla T4", has_bfloat16=False, chosen=False)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NEW_TAGS = ["<urgent>", "<can-wait>"]
GERMAN = (
    "Der Arzt prüft heute den alten Verband und spricht danach lange mit der Schwester über die "
    "Dosis der Tabletten, weil das Fieber seit gestern Abend nicht gesunken ist."
)


def _recipe(**sections: dict[str, Any]) -> Case:
    return Case(sections=sections)


def _policy(
    rows: list[Row],
    rewards: list[Any],
    batch_size: int = 64,
    learning_rate: float = 2e-5,
    **grpo: Any,
) -> Case:
    """A policy gradient; its groups are of 8."""
    sections = {
        "train": {"method": "grpo", "batch_size": batch_size, "learning_rate": learning_rate},
        "grpo": {"rewards": rewards} | grpo,
        "adapter": {"r": 32, "lora_alpha": 64},
    }
    return Case(rows, sections=sections)


def _own_reward(**reward: Any) -> Case:
    """A reward function that names the argument `limit`, and takes every other one."""
    case = _policy(asked(60), [{"name": "{rewards.py:brevity}"} | reward])
    return replace(case, files={"rewards.py": BREVITY})


def _warmed(questions: list[Row], traces: list[Row]) -> Case:
    """A policy that is warmed with traces."""
    case = _policy(questions, ["tags"])
    return replace(
        case,
        sections={**case.sections, "warm_start": {"train": "{traces.jsonl}"}},
        sets={"traces": traces},
    )


def _note(case: Case) -> Case:
    """A flaw, or a degree of one, that is worth a note and no more."""
    return replace(case, is_note=True)


def _base_without_template(folder: Path) -> Path:
    folder.mkdir()
    tiny.tokenizer(chat_template=None).save_pretrained(folder)
    config = tiny.config(max_position_embeddings=2048)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return folder


def _grown_tokenizer(folder: Path) -> Path:
    folder.mkdir()
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([f"<new{i}>" for i in range(100)])
    tokenizer.save_pretrained(folder)
    config = tiny.config(max_position_embeddings=2048)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return folder


def _grown_base(folder: Path) -> Path:
    """Two tokens more, whose rows lie at the mean."""
    folder.mkdir()
    tokenizer = tiny.tokenizer()
    model = tiny.model(max_position_embeddings=2048)
    tokenizer.add_tokens(NEW_TAGS)
    model.resize_token_embeddings(len(tokenizer))
    weight = model.get_input_embeddings().weight.data
    weight[-len(NEW_TAGS) :] = weight[: -len(NEW_TAGS)].mean(dim=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tuned_by_name(folder: Path) -> Path:
    named = folder.with_name("tiny-Instruct")
    named.mkdir()
    tiny.tokenizer().save_pretrained(named)
    config = tiny.config(max_position_embeddings=2048)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(named)
    return named


def _text_rows(count: int) -> list[Row]:
    maker = Maker(3)
    return [{"text": maker.prose(3, 5)} for _ in range(count)]


def _instructions_as_texts(count: int) -> list[Row]:
    return [
        {"text": f"### Instruction:\n{row['prompt']}\n### Response:\n{row['completion']}"}
        for row in answered(count)
    ]


def _again(row: Row) -> Row:
    return row | {
        "prompt": row["prompt"].lower().replace("?", " "),
        "completion": row["completion"],
    }


def _lowercase_twins(count: int) -> list[Row]:
    rows = answered(count)
    return rows + [_again(row) for row in rows[::8]]


def _typing_errors(count: int) -> list[Row]:
    rows = answered(count)
    twins = [dict(row) for row in rows[::8]]
    for row in twins:
        longest = max(row["prompt"].split(), key=len)
        row["prompt"] = "Please: " + row["prompt"].replace(longest, longest[:-3] + longest[-2:])
    return rows + twins


def _thinking(count: int) -> list[Row]:
    maker = Maker(4)
    return [
        {
            "messages": [
                {"role": "user", "content": maker.question()},
                {
                    "role": "assistant",
                    "content": f"<think>{maker.prose()}</think>{maker.sentence()}",
                }
                if i % 2
                else {"role": "assistant", "content": maker.sentence()},
            ]
        }
        for i in range(count)
    ]


def _uneven(count: int) -> list[Row]:
    maker = Maker(5)
    return [
        {
            "prompt": maker.question(),
            "completion": maker.prose(1, 1) if i % 8 else maker.prose(20, 22),
        }
        for i in range(count)
    ]


def _sources(count: int) -> list[Row]:
    names = ("forum",) * 28 + ("notes", "letters")
    return [row | {"source": names[i % 30]} for i, row in enumerate(answered(count))]


def _briefly_asked(count: int) -> list[Row]:
    """Questions too short for their language to be told alone."""
    return [row | {"prompt": f"What is meant by {i}?"} for i, row in enumerate(answered(count))]


def _long_prompts(count: int) -> list[Row]:
    maker = Maker(6)
    return [{"prompt": maker.prose(18, 20), "completion": "yes"} for _ in range(count)]


def _twice(count: int, answer: str, other: str, question: str) -> list[Row]:
    rows = answered(count)
    return rows + [
        {"prompt": question.format(n=n), "completion": said}
        for n in ("aspirin", "ibuprofen", "codeine", "morphine")
        for said in (answer, other)
    ]


def _followed_by(text: str) -> Callable[[Row], str]:
    return lambda row: f"{row['completion']} {text}"


def _canned(row: Row) -> str:
    return "Please contact the support desk, they will gladly help you with that."


JSON_CUT = changed(extracted(240), 12, with_answer(lambda row: row["completion"][:-6]))
JSON_DEEP = changed(extracted(240), 12, with_answer(lambda row: "[" * 1200))

FLAWED: dict[str, list[Case]] = {
    "rank-without-rslora": [
        _recipe(adapter={"r": 128, "lora_alpha": 128}),
        _recipe(adapter={"rank_pattern": {"q_proj": 256}}),
    ],
    "alpha-over-twice-rank": [
        _recipe(adapter={"r": 8, "lora_alpha": 64}),
        _recipe(adapter={"use_rslora": True, "r": 16, "lora_alpha": 64}),
        # Twice the rank, as for LoRA: scaled by 23.
        _recipe(adapter={"use_rslora": True, "r": 128, "lora_alpha": 256}),
        _note(_recipe(adapter={"use_rslora": True, "r": 64, "lora_alpha": 64})),
        _recipe(adapter={"r": 64, "lora_alpha": 64, "rank_pattern": {"q_proj": 8}}),
    ],
    "learning-rate-too-high": [
        _recipe(train={"learning_rate": 1e-2}),
        _policy(sums(60), ["math"], learning_rate=5e-3),
        _note(_recipe(train={"learning_rate": 1e-3})),
    ],
    "reward-without-answer": [
        _policy(answered(60), ["code"]),
        *(_policy(asked(60), [name]) for name in ("math", "exact_match", "token_f1")),
        _policy(sums(60) + [r | {"completion": "A few."} for r in answered(9)], ["math"]),
    ],
    "few-questions-per-step": [
        _policy(sums(60), ["math"], batch_size=16),
        _note(_policy(sums(60), ["math"], num_generations=2)),
    ],
    "reward-option-passed-on": [
        _note(_own_reward(options={"most_words": 40})),
        _note(_own_reward(options={"limit": 40, "most_words": 40})),
    ],
    "warm-start-system-differs": [
        _warmed(answered(60), dialogues(260, system="You are brief.")),
        _warmed(dialogues(60, system="You are brief."), answered(260)),
        _note(
            _warmed(dialogues(60, system="You are brief."), dialogues(260, system="Think aloud."))
        ),
    ],
    "completions-beyond-context": [_policy(sums(60), ["math"], max_completion_length=1020)],
    "learning-rate-too-low": [_recipe(train={"learning_rate": 2e-6})],
    "few-modules-targeted": [
        _recipe(adapter={"target_modules": ["q_proj", "v_proj"]}),
        _note(_recipe(adapter={"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]})),
    ],
    "epochs-against-rows": [
        _recipe(train={"num_train_epochs": 1}),
        _recipe(train={"num_train_epochs": 30}),
        Case(answered(2_200), sections={"train": {"num_train_epochs": 15}}),
        _recipe(train={"num_train_epochs": None, "max_steps": 2_000}),
    ],
    "dropout-against-rows": [
        _recipe(adapter={"lora_dropout": 0.6}),
        _note(_recipe(adapter={"lora_dropout": 0.0})),
    ],
    "few-rows": [Case(answered(40))],
    "rank-for-reasoning": [
        Case(
            [r | {"completion": f"Step 1: {r['completion']}"} for r in answered(240)],
            sections={"adapter": {"r": 4, "lora_alpha": 8}},
        ),
        _note(Case([r | {"completion": f"Step 1: {r['completion']}"} for r in answered(240)])),
    ],
    "nothing-held-out": [
        _recipe(evaluate={"in_domain": None, "out_of_domain": None, "retention": None})
    ],
    "out-of-domain-or-retention-missing": [
        _recipe(evaluate={"out_of_domain": None, "retention": None}),
        _note(_recipe(evaluate={"out_of_domain": None})),
    ],
    "warmup-too-long": [
        _recipe(train={"warmup_steps": 1_000}),
        _recipe(train={"warmup_ratio": 0.6}),
    ],
    "weight-decay-high": [_recipe(train={"weight_decay": 1.0})],
    "few-steps": [_recipe(train={"batch_size": 128})],
    "gradient-clipping": [_recipe(train={"max_grad_norm": 1e-3})],
    "lora-plus-ratio-high": [_recipe(train={"loraplus_lr_ratio": 500})],
    "bfloat16-without-hardware": [
        _recipe(base={"dtype": "bfloat16"}),
        Case(sections={"base": {"dtype": "bfloat16"}}, hardware=OLD_GPU),
        _recipe(base={"dtype": "float16"}),
    ],
    "plain-text-on-instruct-base": [
        Case(_instructions_as_texts(240)),
        _note(Case(_text_rows(240))),
        _note(Case(_text_rows(240), base=_tuned_by_name)),
    ],
    "chat-on-base-model": [_note(Case(base=_base_without_template))],
    "template-replaced": [
        Case(
            sections={"data": {"chat_template": "{chatml.jinja}"}},
            files={"chatml.jinja": CHATML.replace("<|im_end|>", "<|end|>")},
        )
    ],
    "template-tokens-in-pieces": [
        Case(
            sections={"data": {"chat_template": "{chatml.jinja}"}},
            files={"chatml.jinja": CHATML.replace("<|im_end|>", "<|end|>")},
        )
    ],
    "grown-rows-untrained": [
        Case(
            [
                r | {"completion": f"{NEW_TAGS[i % 2]} {r['completion']}"}
                for i, r in enumerate(answered(240))
            ],
            base=_grown_base,
        )
    ],
    "new-tokens-untrained": [
        Case(
            sections={"data": {"chat_template": "{chatml.jinja}"}},
            files={"chatml.jinja": CHATML.replace("<|im_end|>", "</s>")},
            base=_base_without_template,
        )
    ],
    "new-tokens-unused": [_recipe(base={"add_tokens": ["<dose>", "<unit>"]})],
    "ids-beyond-vocabulary": [
        Case(
            changed(answered(240), 3, with_answer(lambda row: "<new99> " + row["completion"])),
            base=_grown_tokenizer,
        )
    ],
    "exact-duplicates": [
        Case(answered(220) + answered(30)),
        Case(
            answered(240),
            sections={"evaluate": {"in_domain": "{test.jsonl}"}},
            sets={"test": answered(90, seed=9) + answered(1, seed=9) * 11},
        ),
    ],
    "near-duplicates": [
        Case(_lowercase_twins(220)),
        Case(_typing_errors(220)),
    ],
    "held-out-near-train": [
        Case(
            answered(240),
            sections={"evaluate": {"in_domain": "{test.jsonl}"}},
            sets={"test": [_again(row) for row in answered(240)[::6]] + answered(60, seed=9)},
        ),
        Case(
            answered(240),
            sections={"evaluate": {"in_domain": "{test.jsonl}"}},
            sets={
                "test": [
                    row | {"completion": Maker(i).prose()}
                    for i, row in enumerate(answered(240)[:40])
                ]
            },
        ),
    ],
    "contradictory-answers": [
        Case(_twice(220, "Yes, it is.", "No, it is not.", "Is {n} safe in pregnancy?")),
        Case(
            _twice(
                220, "Take 5 mg twice a day.", "Take 50 mg twice a day.", "What is the dose of {n}?"
            )
        ),
        Case(
            _twice(
                220,
                "Two more come to 5 + 2 = 7.\nA: 7",
                "They double, so 5 * 2 = 10.\nA: 10",
                "How many {n}s are there?",
            )
        ),
        Case(classified(200) + [r | {"completion": "technical"} for r in classified(200)[::10]]),
    ],
    "labels-spelled-differently": [
        Case(changed(classified(240), 9, with_answer(lambda row: row["completion"].title() + ".")))
    ],
    "one-answer-dominates": [
        Case(changed(answered(240), 3, with_answer(_canned))),
        _note(Case(classified(240, shares=(60, 1, 1, 1)))),
    ],
    "placeholder-answers": [Case(changed(answered(240), 20, with_answer(lambda row: "nan")))],
    "answer-repeats-question": [
        Case(changed(answered(240), 20, with_answer(lambda row: row["prompt"])))
    ],
    "assistant-boilerplate": [
        Case(
            changed(
                answered(240),
                30,
                with_answer(
                    lambda row: "As an AI language model, I have no views. " + row["completion"]
                ),
            )
        )
    ],
    "refusals": [
        Case(
            changed(
                answered(240),
                5,
                with_answer(lambda row: "I'm sorry, but I can't assist with that."),
            )
        )
    ],
    "mojibake": [
        Case(
            changed(
                answered(240),
                20,
                with_answer(
                    lambda row: (
                        "The café\u2019s owner: ".encode().decode("cp1252") + row["completion"]
                    )
                ),
            )
        )
    ],
    "html-left-over": [
        Case(
            changed(
                answered(240),
                10,
                with_answer(lambda row: row["completion"].replace(". ", ".&nbsp;<br>")),
            )
        )
    ],
    "control-tokens-in-text": [
        Case([r | {"prompt": f"[INST] {r['prompt']} [/INST]"} for r in answered(240)]),
        Case([r | {"prompt": f"<|user|>{r['prompt']}<|end|>"} for r in answered(240)]),
    ],
    "answer-goes-on": [
        Case(
            changed(
                answered(240),
                10,
                with_answer(
                    lambda row: f"{row['completion']}\nUser: And then?\nAssistant: Nothing."
                ),
            )
        )
    ],
    "degenerate-answers": [
        Case(changed(answered(240), 30, with_answer(lambda row: "the dose is high and " * 60)))
    ],
    "answers-cut": [
        Case([r | {"completion": (r["completion"] * 2)[:180]} for r in answered(240)]),
        Case(changed([r | {"completion": r["completion"][:150]} for r in answered(240)], 9, dict)),
    ],
    "reference-longer-than-generated": [
        _recipe(evaluate={"metrics": ["loss", "rouge_l"], "max_new_tokens": 8})
    ],
    "secrets": [
        Case(changed(answered(240), 60, with_answer(_followed_by(secret))))
        for secret in (
            "Key: AKIA" + "Q3EGRW7ZKD5MTLVX",
            "ghp_" + "a8Kq0ZpW3xY7mN2vB6tR9cD4sF1gH5jL8kQe",
            "postgres://" + "admin:Zr8kqPw3@db.company.net/live",
        )
    ],
    "personal-data": [
        Case(changed(answered(240), 40, with_answer(_followed_by(told))))
        for told in (
            "Write to anna.kowalska1987@gmail.com.",
            "Her card is 4539 1488 0343 6467.",
            "Pay to DE89 3704 0044 0532 0130 00.",
            "Her social security number is 219-09-9999.",
        )
    ],
    "languages-mixed": [
        Case(changed(answered(240), 10, with_answer(lambda row: GERMAN))),
        Case(changed(_briefly_asked(240), 10, with_answer(lambda row: GERMAN))),
        *MIXED_BY_MISTAKE,
    ],
    "one-source-dominates": [
        _note(Case(_sources(240))),
        _note(
            Case(
                sections={
                    "data": {
                        "train": [{"path": "{train.jsonl}", "weight": 3}, {"path": "{notes.jsonl}"}]
                    }
                },
                sets={"notes": answered(20, seed=8)},
            )
        ),
    ],
    "padding-waste": [
        Case(_uneven(240), sections={"data": {"packing": False}, "train": WIDE}),
        _note(Case(_uneven(240), sections={"data": {"packing": False}})),
    ],
    "json-answers-broken": [
        Case(JSON_CUT),
        Case(JSON_DEEP, base=_tuned_by_name),  # whose context has room for them
        JSON_IN_QUOTES,
    ],
    "system-message-differs": [
        Case(
            dialogues(220, system="You are a triage nurse."),
            sections={"evaluate": {"in_domain": "{test.jsonl}"}},
            sets={"test": dialogues(60, seed=8)},
        )
    ],
    "lengths-drift": [
        _note(
            Case(
                sections={"evaluate": {"in_domain": "{test.jsonl}"}},
                sets={
                    "test": [r | {"completion": r["completion"][:12]} for r in answered(60, seed=8)]
                },
            )
        )
    ],
    "thinking-in-some-rows": [_note(Case(_thinking(240)))],
    "little-is-trained": [_note(Case(_long_prompts(220)))],
    "prompts-are-trained": [
        Case(classified(240), sections={"data": {"trained": "all"}}),
        _note(_recipe(data={"trained": "all"})),
    ],
    "does-not-fit": [Case(room=(0.5, 0.6), measured=False)],
    "fits-only-just": [Case(room=(1.03, 2), measured=False)],
    **FLAWED_TWINS,
}
