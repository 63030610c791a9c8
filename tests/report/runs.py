"""Run folders made by code: every file in its contract's shape, with odd and hostile text in it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorakit
from lorakit.run_folder import RunFolder, write_recipe

HOSTILE = "<script>alert('$x$ & more')</script>"
RIGHT_TO_LEFT = "ما هو الربو؟ \u202eeman \u2066x\u2069"  # with an override that is never closed
ODD = "tab\there\nnul \x00, bell \x07, half \ud83d, whole \U0001f600, \u2028, " + "w" * 300
LONG = "The airways swell and narrow. " * 80

QUESTIONS = (
    "What is asthma?",
    "Who needs a tetanus booster, and when?",
    "How is iron deficiency treated? Order: plan, assessment, history.",
    HOSTILE,
    RIGHT_TO_LEFT,
    ODD,
    LONG,
)
SETS = ("in_domain", "out_of_domain", "retention")
SCORERS = ("token_f1", "rouge_l", "outline", "content")


def make_run(path: Path, *, seed: int = 0, name: str = "recipe", **adapter: Any) -> Path:
    """A finished run in which everything is there."""
    path.mkdir(parents=True)
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": "clinic/small-base", "quantization": "nf4"},
            "adapter": {"r": 16, "use_dora": True} | adapter,
            "data": {"train": f"{HOSTILE}.jsonl", "max_length": 512},
            "train": {"num_train_epochs": 4, "batch_size": 16, "seed": seed},
            "evaluate": {"retention": "general.jsonl", "margin": 0.1},
            "output": {"dir": str(path)},
        },
        name=name,
    )
    run = RunFolder(path)
    write_recipe(run, recipe)
    random_numbers = random.Random(seed)
    write(run.plan, plan_file())
    write(run.choices, choices_file())
    write(run.data, data_file())
    write_lines(run.metrics, metrics_lines(random_numbers))
    write(run.evaluation, evaluation_file(random_numbers))
    write_lines(run.answers, answer_lines(random_numbers))
    return path


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values), encoding="utf-8")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text("utf-8"))
    change(value)
    write(path, value)


def plan_file() -> dict[str, Any]:
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "loading_peak")
    memory: dict[str, int] = dict.fromkeys(parts, 8 << 20)
    return {
        "parameters": {"total": 4_010_240, "trainable": 412_032},
        "memory_bytes": memory | {"peak": 310 << 20},
        "steps": 160,
        "tokens": 450_000,
        "trained_tokens": 300_000,
        "seconds": None,
        "cost": None,
    }


def choices_file() -> dict[str, Any]:
    return {
        "micro_batch_tokens": 2048,
        "recompute": "auto",
        "activation_bytes": 8 << 30,
        "packed": True,
        "device": "cpu AVX512",
        "dtype": "torch.float32",
        "num_threads": 2,
        "kernels": "cpu",
    }


def data_file() -> dict[str, Any]:
    def one(read: int, dropped: int) -> dict[str, Any]:
        counts = [int(60 * math.exp(-(((bin_ - 7) / 4) ** 2))) for bin_ in range(24)]
        return {
            "read": read,
            "kept": read - dropped,
            "dropped": dropped,
            "tokens": 112_340,
            "trained_tokens": 74_127,
            "lengths": {"edges": [20 * edge for edge in range(25)], "counts": counts},
            "longest": 471,
            "max_length": 512,
        }

    prompt = ["<|im_start|>", "user\n", "What", " is", " asth", "ma", "?", "<|im_end|>", "\n"]
    answer = ["Assessment", ":\n", HOSTILE, " Peak", " flow", " 310", " L", "/min", "<|im_end|>"]
    pieces = [{"text": text, "trained": False} for text in prompt]
    pieces += [{"text": text, "trained": True} for text in answer]
    pieces.append({"text": "\n", "trained": False})
    return {
        "sets": {
            "train": one(640, 23),
            "in_domain": one(100, 0),
            "out_of_domain": one(100, 0),
            "retention": one(100, 1),
        },
        "findings": [
            {
                "id": "rows-too-long",
                "severity": "warning",
                "message": "train: 23 rows are longer than max_length and were left out whole; "
                "raise max_length or split them. First: 705 tokens",
                "where": "train.jsonl:8, train.jsonl:9 and 21 more",
            },
            {
                "id": "duplicate-rows",
                "severity": "note",
                "message": f"train: 2 rows repeat an earlier row of {HOSTILE}; they were kept",
                "where": "train.jsonl:77",
            },
        ],
        "examples": [
            {
                "set": "train",
                "index": index,
                "tokens": 310 * (index + 1),
                "left_out": {"before": 0, "after": 120 * index},
                "pieces": pieces * (index + 1),
            }
            for index in range(2)
        ],
    }


def metrics_lines(random_numbers: random.Random, *, steps: int = 160) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 1.2 + 2.6 * math.exp(-step / 30) + random_numbers.gauss(0, 0.05)
        line = {
            "step": step,
            "epoch": step / 40,
            "loss": loss,
            "learning_rate": 2e-4 * min(step / 8, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
            "grad_norm": 1.0,
            "tokens": 2800 * step,
            "trained_tokens": 1850 * step,
            "tokens_per_second": 2100 + random_numbers.gauss(0, 60),
            "peak_bytes": (280 << 20) + min(step, 12) * (2 << 20),
            "seconds": 2800 * step / 2100,
        }
        if step % 40 == 0:
            line["validation_loss"] = loss + 0.15
        lines.append(line)
    return lines


def evaluation_file(random_numbers: random.Random) -> dict[str, Any]:
    found = {name: set_evaluation(name, random_numbers) for name in SETS}
    found["in_domain"]["overfitting"] = overfitting()
    for name in SETS[1:]:  # one diagram is as good as three, and sooner drawn
        del found[name]["calibration"]
    return found | {"in_domain+typos": varied_set(random.Random(7))}


def set_evaluation(name: str, random_numbers: random.Random) -> dict[str, Any]:
    retention = name == "retention"
    loss = 0.03 if retention else -1.3 + random_numbers.random() / 5
    metrics = {
        "loss": change(2.6, 2.6 + loss, 0.04, higher_is_better=False),
        "perplexity": change(13.5, math.exp(2.6 + loss), 0.5, higher_is_better=False),
    }
    for place, scorer in enumerate(SCORERS):
        gain = -0.02 if retention else 0.2 + place / 10
        metrics[scorer] = change(0.1, 0.1 + gain, 0.05, higher_is_better=True, examples=60)
    if retention:
        metrics["kl"] = change(0, 0.04, 0.01, higher_is_better=False) | {"distance": True}
    return {
        "examples": 100,
        "available": 100,
        "metrics": metrics,
        "primary": "loss" if retention else "content",
        "verdict": "no difference" if retention else "better",
        "margin": 0.1 if retention else None,
        "notes": [f"a note about {HOSTILE}"] if name == "out_of_domain" else [],
        "forgotten": [
            {"index": n, "where": f"general.jsonl:{n}", "text": text, "base": 1.0, "tuned": 2.5}
            for n, text in enumerate((HOSTILE, RIGHT_TO_LEFT, "What is 7 plus 5?"), 1)
        ],
        "p_value": 0.0002,
        "p_value_corrected": 0.0008,
        "survives_correction": True,
        "correction": {"method": "holm", "tests": 4},
        "calibration": calibration(),
        "memorisation": memorisation(),
    }


def reliability(excess: float) -> dict[str, Any]:
    bins = [
        {
            "above": b / 15,
            "count": 40 * b,
            "confidence": (b + 0.5) / 15,
            "accuracy": max(0.0, (b + 0.5) / 15 - excess),
        }
        for b in range(1, 15)
    ]
    return {"error": abs(excess), "confidence": 0.65, "accuracy": 0.65 - excess, "bins": bins}


def calibration(
    base: float = 0.02, tuned: float = 0.09, half_width: float = 0.01
) -> dict[str, Any]:
    return {
        "positions": 4200,
        "base": reliability(base),
        "tuned": reliability(tuned),
        "overconfidence": change(base, tuned, 0.01, higher_is_better=False),
    }


def overfitting(seen: float = 1.5, unseen: float = 1.1, half_width: float = 0.1) -> dict[str, Any]:
    excess = seen - unseen
    return {
        "seen": {"base": 2.6, "tuned": 2.6 - seen, "examples": 100},
        "unseen": {"base": 2.7, "tuned": 2.7 - unseen, "examples": 100},
        "excess": excess,
        "interval": [excess - half_width, excess + half_width],
        "p_value": 0.0001,
        "validation": {
            "best_step": 120,
            "best": 1.31,
            "last_step": 160,
            "last": 1.36,
            "kept_step": 160,
        },
    }


def memorisation(references: float = 0.1, tuned: float = 0.12) -> dict[str, Any]:
    def against(reference: float, answers: float, half_width: float) -> dict[str, Any]:
        difference = answers - reference
        return {
            "references": reference,
            "base": 0.0,
            "tuned": answers,
            "difference": difference,
            "interval": [difference - half_width, difference + half_width],
            "p_value": 0.3,
        }

    return {
        "answers": 60,
        "training_answers": 617,
        "training_available": 617,
        "copied": against(references, tuned, 0.06),
        "longest_run": against(11.0, 11.0 + 10 * (tuned - references), 3.0),
        "shown": [
            {"index": 3, "length": 31, "total": 40, "where": "train.jsonl:7", "text": HOSTILE},
            {"index": 9, "length": 12, "total": 50, "where": "train.jsonl:8", "text": LONG},
        ],
    }


def varied_set(
    random_numbers: random.Random, *, lost: float = 0.2, extra: float = 0.15
) -> dict[str, Any]:
    """`in_domain+typos` beside `in_domain`."""

    def one(given: float, difference: float) -> dict[str, Any]:
        return {
            "given": given,
            "varied": given + difference,
            "difference": difference,
            "interval": [difference - 0.05, difference + 0.05],
            "p_value": 0.01,
        }

    def metric(sign: int) -> dict[str, Any]:
        return {
            "base": one(0.4, -sign * (lost - extra)),
            "tuned": one(0.5, -sign * lost),
            "extra": {
                "difference": -sign * extra,
                "interval": [-sign * extra - 0.05, -sign * extra + 0.05],
            },
            "examples": 60,
            "higher_is_better": sign > 0,
        }

    told = set_evaluation("in_domain", random_numbers)
    del told["memorisation"]
    return told | {
        "variant": {
            "source": "in_domain",
            "name": "typos",
            "how": "with typos",
            "metrics": {"loss": metric(-1), "content": metric(1)},
        }
    }


def change(
    base: float,
    tuned: float,
    half_width: float,
    *,
    higher_is_better: bool,
    examples: int | None = None,
) -> dict[str, Any]:
    difference = tuned - base
    one = {
        "base": base,
        "tuned": tuned,
        "difference": difference,
        "interval": [difference - half_width, difference + half_width],
        "higher_is_better": higher_is_better,
    }
    return one if examples is None else one | {"examples": examples}


def answer_lines(random_numbers: random.Random, *, per_set: int = 21) -> list[dict[str, Any]]:
    return [
        {
            "set": name,
            "index": index,
            "prompt": QUESTIONS[index % len(QUESTIONS)],
            "reference": f"History:\nCough for 3 days.\n\nPlan:\n{QUESTIONS[-1 - index % 7]}",
            "base": "" if index == 3 else f"Once upon a time {QUESTIONS[(index + 3) % 7]}",
            "tuned": f"History:\nWheeze at night.\n\nPlan:\n{QUESTIONS[(index + 5) % 7]}",
            "scores": {
                scorer: {"base": random_numbers.random() / 3, "tuned": random_numbers.random()}
                for scorer in SCORERS
            },
        }
        for name in SETS
        for index in range(per_set)
    ]
