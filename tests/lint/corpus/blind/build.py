"""From rows to a case: the files, and the recipe that a careful person would write for them."""

import csv
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tests.lint.corpus.blind.case import Case
from tests.lint.corpus.blind.made import chatter, unlike

HERE = Path(__file__).resolve()
ROOT = next((p for p in HERE.parents if (p / "pyproject.toml").is_file()), HERE.parents[1])
SHARED = Path(os.environ.get("LORAKIT_SHARED_DATA") or ROOT.parent / "shared" / "data")
Rows = list[dict[str, Any]]
LAYOUTS = ("data/train|data/test", "train|heldout", "corpus/v2/sft|corpus/v2/check", "in/a|in/b")


def shared(name: str) -> Rows:
    """The rows of a file under SHARED; none where it is absent."""
    path = SHARED / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n") if line]


def chat(pairs: list[tuple[str, str]], system: str | None = None) -> Rows:
    first = [{"role": "system", "content": system}] if system else []
    said = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    return [{"messages": first + turns} for turns in said]


def columns(pairs: list[tuple[str, str]], asked: str, told: str) -> Rows:
    return [{"id": f"{i:05}", asked: q, told: a} for i, (q, a) in enumerate(pairs, 1)]


def table(rows: Rows, suffix: str) -> str | bytes:
    """A data file: .jsonl, .json, .parquet, .csv, or ;csv for a .csv file with semicolons."""
    if suffix == ".parquet":
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if suffix == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1)
    out = io.StringIO()
    mark = "," if suffix == ".csv" else ";"
    writer = csv.DictWriter(out, list(rows[0]), delimiter=mark, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def build(
    name: str,
    flaw: str | None,
    rows: Rows,
    over: dict[str, Any] | None = None,
    *,
    test: Rows | int = 80,
    suffix: str = ".jsonl",
    files: dict[str, str | bytes] | None = None,
) -> Case:
    """A case; `over` is {"section.key": value or ... to take it away}, `test` rows or a number."""
    if isinstance(test, int):
        rows, test = rows[:-test], rows[-test:]
    rng, count = random.Random(name), len(rows)
    rank = (over or {}).get("adapter.r", 16)
    files, end = dict(files or {}), suffix.replace(";", ".")
    train, held = (f"{part}{end}" for part in rng.choice(LAYOUTS).split("|"))
    if "data.train" not in (over or {}):
        files |= {train: table(rows, suffix), held: table(test, suffix)}
    recipe: dict[str, Any] = {
        "base": {"model": "builtin"},
        "adapter": {
            "r": rank,
            "lora_alpha": rng.choice([rank, 2 * rank]),
            "lora_dropout": 0.1 if count < 600 else 0.05,
            "target_modules": "all-linear",
        },
        "data": {"train": train, "validation": 0.05, "max_length": 512},
        "train": {
            "num_train_epochs": 4 if count < 600 else 3 if count < 1800 else 2,
            "batch_size": 8 if count < 1200 else 16,
            "learning_rate": rng.choice([1.5e-4, 2e-4, 2e-4]),
            "lr_scheduler_type": rng.choice(["cosine", "linear"]),
            "warmup_ratio": 0.05,
            "seed": rng.randint(1, 99),
        },
        "evaluate": {
            "in_domain": held,
            "retention": "builtin:retention",
            "primary": "loss",
            "metrics": ["loss", "token_f1", "rouge_l"],
            "margin": 0.05,
        },
        "output": {"dir": "runs/{name}"},
    }
    if rng.random() < 0.5:
        recipe["evaluate"]["retention"] = {"path": "general.jsonl", "format": "messages"}
    for key, value in (over or {}).items():
        section, _, field = key.partition(".")
        if value is ...:
            del recipe[section][field]
        else:
            recipe.setdefault(section, {})[field] = value
    if isinstance(recipe["evaluate"].get("retention"), dict):
        files["general.jsonl"] = table(chat(unlike(chatter, 90, count)), ".jsonl")
    return Case(name, flaw, recipe, files)


def desks(
    name: str, flaw: str | None, sets: dict[str, list[tuple[str, str]]], weights: tuple[float, ...]
) -> Case:
    """Several jobs for one model, each with a folder; 40 rows of each are held out."""
    files = {f"{k}/train.json": table(chat(v[40:]), ".json") for k, v in sets.items()}
    files |= {f"{k}/test.json": table(chat(v[:40]), ".json") for k, v in sets.items()}
    listed = [{"path": f"{k}/train.json", "weight": w} for k, w in zip(sets, weights, strict=True)]
    rows = [row for pairs in sets.values() for row in chat(pairs)]
    return build(
        name,
        flaw,
        rows,
        files=files,
        over={"data.train": listed, "evaluate.in_domain": [f"{k}/test.json" for k in sets]},
    )
