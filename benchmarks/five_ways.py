"""Was fine-tuning the right tool? `lorakit compare` on three cases, on the base that ships.

python benchmarks/five_ways.py [--only facts both style medquad] [--questions 60] [--keep DIR]

facts: what is asked stands in the documents alone, and the training rows are about other things:
retrieval has to win.
both: the same, but how to say it stands in the training rows: only both together can win.
style: how to answer is in the training rows, nothing of use in the documents: tuning has to win.
medquad: real questions and documents; nobody knows beforehand. Skipped without the data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from page import command, machine, write_section

from lorakit.cli.compare import verdict_in_words
from lorakit.compare.ways import compare_ways
from lorakit.finetune import finetune
from lorakit.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LORAKIT_SHARED_DATA", ROOT.parent / "shared" / "data"))
FIRST = (
    "Emma",
    "Omar",
    "Ivy",
    "Noah",
    "Lena",
    "Hugo",
    "Mira",
    "Paul",
    "Rosa",
    "Tom",
    "Zoe",
    "Karl",
)
LAST = ("Adler", "Brown", "Costa", "Dahl", "Evans", "Fischer", "Garcia", "Ito", "Khan", "Novak")
NUM_PEOPLE = len(FIRST) * len(LAST)
ABOUT_PEOPLE = {
    "metrics": ["token_f1", "exact_match"],
    "primary": "token_f1",
    "max_new_tokens": 24,
}
# `compare` measures; the run's own evaluation may be short.
FEW = {"max_examples": 20, "max_generated": 4}
ONE_DOCUMENT = {"top_k": 1, "prompt": "{documents}\n\n{question}"}
DRUGS = ("aspirin", "bisoprolol", "cetirizine", "furosemide", "ibuprofen", "metformin", "ramipril")
# Documents in which nothing is of use for a note in the house style.
ELSEWHERE = """\
The canteen opens at seven. Lunch is served from noon to two.

Bicycles may be left behind the north gate. The gate is locked at ten in the evening.

The library lends books for four weeks. A lost book is paid for.
"""


def main() -> None:
    """Run the cases and write their sections; fails where a verdict is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="where data and runs are left")
    arguments = parser.parse_args()
    wrong, where = [], machine()  # of this commit, before the page is changed
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            folder = (arguments.keep or Path(temporary)) / name
            make, expected = CASES[name]
            recipe = make(folder, arguments.questions)
            if recipe is None:
                print(f"{name}: skipped, real data not found at {SHARED}", file=sys.stderr)
                continue
            told = compared(recipe, folder)
            write_section(f"Five ways to answer: {name}", text(told, where))
            print(name, json.dumps(told["recommendation"], indent=1), flush=True)
            if expected is not None and told["recommendation"]["way"] != expected:
                wrong.append(f"{name}: {told['recommendation']['way']}, not {expected}")
    sys.exit("; ".join(wrong) or None)


def compared(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """compare.json of a recipe, which is trained first."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    recipe = load_recipe(path)
    run = Path(recipe.output.dir)
    if not (run / "adapter" / "adapter_config.json").is_file():
        finetune(recipe)
    return compare_ways(recipe, run).to_json()


def facts(folder: Path, questions: int) -> dict[str, Any]:
    """Questions about people of whom only documents tell, answered as the base would say it."""
    rng = random.Random(0)
    documents, held_out = _people_told(folder, rng, _names(rng)[: NUM_PEOPLE // 2])
    rows = [{"prompt": question, "completion": said} for said, question, _ in held_out]
    _write_rows(folder / "held_out.jsonl", rows[:questions])
    return _recipe(
        folder,
        documents,
        questions,
        data={"train": "builtin:general", "max_length": 512},
        train={"max_steps": 20, "batch_size": 16, "learning_rate": 2e-4, "warmup_steps": 2},
        evaluate=ABOUT_PEOPLE,
        # Paid by tokens: what must win must not hang on how busy the machine is.
        compare=ONE_DOCUMENT | {"api": "llama-3-70b"},
    )


def both(folder: Path, questions: int) -> dict[str, Any]:
    """The same, but answers are the bare values: the training rows show that, of other people."""
    rng = random.Random(0)
    names = _names(rng)
    documents, held_out = _people_told(folder, rng, names[: NUM_PEOPLE // 2])
    others = [one for name in names[NUM_PEOPLE // 2 :] for one in _person(rng, name)]
    for file, told in (("train", others), ("held_out", held_out[:questions])):
        rows = [{"prompt": question, "completion": value} for _, question, value in told]
        _write_rows(folder / f"{file}.jsonl", rows)
    return _recipe(
        folder,
        documents,
        questions,
        train={"max_steps": 20, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 2},
        evaluate=ABOUT_PEOPLE,
        compare=ONE_DOCUMENT,
    )


def _names(rng: random.Random) -> list[str]:
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    rng.shuffle(names)
    return names


def _people_told(
    folder: Path, rng: random.Random, names: list[str]
) -> tuple[Path, list[tuple[str, str, str]]]:
    """A folder with a document about each person, and everything in them, shuffled."""
    documents = folder / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    told = {name: _person(rng, name) for name in names}
    for name, about in told.items():
        said = " ".join(sentence for sentence, _, _ in about)
        (documents / f"{name.replace(' ', '_')}.md").write_text(f"{said}\n", "utf-8")
    listed = [one for about in told.values() for one in about]
    rng.shuffle(listed)
    return documents, listed


def _person(rng: random.Random, name: str) -> list[tuple[str, str, str]]:
    """(sentence, question, answer) for some facts."""
    weight, room, drug = rng.randint(45, 120), rng.randint(1, 60), rng.choice(DRUGS)
    return [
        (f"{name} weighs {weight} kg.", f"What is the weight of {name}?", f"{weight} kg"),
        (f"{name} lies in room {room}.", f"Where does {name} lie?", f"room {room}"),
        (f"{name} takes {drug}.", f"What does {name} take?", drug),
    ]


def style(folder: Path, questions: int) -> dict[str, Any]:
    """Ward notes in the house style of the demo, beside documents about the canteen."""
    documents = folder / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    (documents / "house.md").write_text(ELSEWHERE, "utf-8")
    return _recipe(
        folder,
        documents,
        questions,
        data={"train": "builtin:train", "max_length": 512},
        train={"max_steps": 60, "batch_size": 8, "learning_rate": 4e-3, "adam_beta2": 0.95},
        evaluate={
            "in_domain": "builtin:in_domain",
            "metrics": ["section_f1", "outline", "content"],
            "primary": "section_f1",
            "max_new_tokens": 120,
        },
        compare={"few_shot": 3},
    )


def medquad(folder: Path, questions: int) -> dict[str, Any] | None:
    """Real questions on topics that are not trained on; their answers are among the documents."""
    source = SHARED / "medquad"
    if not source.is_dir():
        return None
    documents = folder / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    texts: dict[str, None] = {}  # each answer once, whichever file has it
    for name in ("medquad_train.jsonl", "small_train_2000.jsonl", "small_test_300.jsonl"):
        for line in (source / name).read_text("utf-8").splitlines():
            row = json.loads(line)
            texts[f"{row['focus']}: {row['answer']}"] = None
    _write_rows(documents / "medquad.jsonl", [{"text": text} for text in texts])
    return _recipe(
        folder,
        documents,
        questions,
        data={
            "train": str(source / "small_train_2000.jsonl"),
            "format": "prompt_completion",
            "columns": {"prompt": "question", "completion": "answer"},
            "max_length": 512,
        },
        train={"max_steps": 60, "batch_size": 8, "learning_rate": 2e-3},
        evaluate={
            "in_domain": str(source / "small_test_300.jsonl"),
            "metrics": ["token_f1", "rouge_l", "content", "loss"],
            "primary": "token_f1",
            "max_new_tokens": 128,
        },
        compare={"chunk_characters": 500, "top_k": 2, "few_shot": 2, "margin": 0.02},
    )


CASES: dict[str, tuple[Callable[[Path, int], dict[str, Any] | None], str | None]] = {
    "facts": (facts, "retrieval"),
    "both": (both, "tuned_retrieval"),
    "style": (style, "tuned"),
    "medquad": (medquad, None),
}


def _recipe(
    folder: Path,
    documents: Path,
    questions: int,
    *,
    train: dict[str, Any],
    evaluate: dict[str, Any],
    compare: dict[str, Any],
    data: dict[str, Any] | None = None,
) -> dict[str, Any]:
    own = {"train": str(folder / "train.jsonl")}
    return {
        "base": {"model": "builtin", "quantization": "nf4", "dtype": "float32", "device": "cpu"},
        "adapter": {"r": 16, "lora_alpha": 32, "use_dora": True},
        "data": own if data is None else data,
        "train": {"lr_scheduler_type": "cosine", "seed": 42, **train},
        "evaluate": {"in_domain": str(folder / "held_out.jsonl")} | FEW | evaluate,
        "compare": {"documents": str(documents), "max_examples": questions} | compare,
        "output": {"dir": str(folder / "run")},
    }


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def text(told: dict[str, Any], where: str) -> str:
    """The section of docs/results.md."""
    unit = told["cost_basis"]["unit"]
    metrics = list(told["higher_is_better"])
    head = ["way", *metrics, f"{told['primary']} against base", "tokens", "seconds a call (p95)"]
    head += ["calls/s", f"{unit} per 1,000", f"set-up {unit}"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for way in told["ways"].values():
        change = way["metrics"][told["primary"]]["against_base"]
        latency, tokens = way["latency_seconds"], way["tokens"]
        cells = [way["title"], *(_estimate(way["metrics"][name]) for name in metrics)]
        cells.append("" if change is None else _estimate(change, "difference", "+"))
        cells.append(f"{tokens['prompt']:.0f} + {tokens['answer']:.0f}")
        cells.append(f"{latency['median']:.3f} ({latency['p95']:.3f})")
        cells.append(f"{way['calls_per_second']:.1f}")
        cells += [f"{way['cost_per_1000_calls']:.2g}", f"{way['setup']['cost']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    indexing = told["ways"].get("retrieval", {}).get("setup", {}).get("seconds", {})
    seconds, documents = indexing.get("indexing documents", 0), told["documents"]
    said = "\n".join(f"- {line.strip()}" for line in verdict_in_words(told))
    return f"""Written by `{command()}`. {where}

{told["examples"]} questions, judged by {told["primary"]}, margin {told["margin"]:g}; intervals
at 95 %. Documents: {documents["chunks"]} chunk(s) of {documents["files"]} file(s), indexed in
{seconds:.2f} s. Load at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.

{chr(10).join(lines)}

{said}
"""


def _estimate(told: dict[str, Any], key: str = "mean", sign: str = "") -> str:
    low, high = told["interval"]
    return f"{told[key]:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


if __name__ == "__main__":
    main()
