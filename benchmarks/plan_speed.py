"""How long `lorakit plan` takes for large bases, from their config.json alone.

    python benchmarks/plan_speed.py
    python benchmarks/plan_speed.py --only 235b --gpus 2 --quantization none

Llama-3.1-8B, its 70B shape and Qwen3-235B-A22B, QLoRA of rank 16 on all linear layers (or 16-bit
LoRA), on 1, 2 and 8 GPUs of one kind. Each plan runs in a process of its own, which first imports
the very modules that such a plan imports and then plans; what each part takes is counted in CPU
seconds of all its threads, which a busy machine changes less than the clock. Where a recipe does
not fit, the changes that make it fit are looked for too. Ends with 1 when a plan beside its imports
takes over 5 s, or a process over 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import took
import yaml
from contest import MIB, results_file, table, work_folder
from large_bases import LARGE
from page import command, machine, write_section

QUANTIZATIONS = ("nf4", "none")
NUM_GPUS = (1, 2, 8)
MOST_SECONDS = 5.0
MOST_BYTES = 2 * 10**9
COLUMNS = ("base", "storage", "GPUs", "fits", "imports s", "plan s", "whole s", "peak MB")

# Both run in an interpreter that has imported nothing; argv: the file, then the command's words.
LISTING = """
import json, sys
from lorakit.cli import main
main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump(list(sys.modules), file)
"""
MEASURING = """
import importlib, json, os, sys
def spent():
    times = os.times()
    return times.user + times.system
with open(sys.argv[1]) as file:
    names = json.load(file)
began = spent()
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:  # no file: a module that others make when they are imported
        pass
imported = spent()
main = importlib.import_module("lorakit.cli").main
code = main(sys.argv[2:])
print(json.dumps({"imports": imported - began, "plan": spent() - imported}), file=sys.stderr)
sys.exit(code)
"""


def main() -> int:
    """Measure every plan, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="bases whose name begins so")
    parser.add_argument("--quantization", nargs="+", choices=QUANTIZATIONS, default=["nf4"])
    parser.add_argument("--gpus", type=int, nargs="+", default=NUM_GPUS)
    parser.add_argument("--gpu", default="h200", help="the kind of GPU")
    options = parser.parse_args()
    bases = [name for name in LARGE if name.startswith(options.only)]
    if not bases:
        parser.error(f"no base begins with {options.only!r}; there are {', '.join(LARGE)}")
    rows = []
    with work_folder(None) as folder:
        for base, quantization in product(bases, options.quantization):
            recipe = recipe_of(base, quantization, folder)
            modules = folder / f"{recipe.stem}-modules.json"
            plan(LISTING, modules, recipe, options.gpu, options.gpus[0])
            for count in options.gpus:
                row = {"base": base, "quantization": quantization, "gpus": count}
                row |= plan(MEASURING, modules, recipe, options.gpu, count)
                row["load"] = round(os.getloadavg()[0], 1)
                print(" | ".join(line(row)), file=sys.stderr, flush=True)
                rows.append(row)
    text = report(rows, options.gpu)
    print(text)
    if len(rows) == len(LARGE) * len(NUM_GPUS) and options.quantization == ["nf4"]:
        path = results_file("plan_speed")
        write_section("How long a plan takes", text, path)
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(any(not is_quick(row) for row in rows))


def recipe_of(base: str, quantization: str, folder: Path) -> Path:
    """A recipe whose base is a folder with a config.json and nothing else."""
    model = folder / base
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(LARGE[base]), "utf-8")
    sections = {
        "base": {"model": str(model), "quantization": quantization},
        "adapter": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "data": {"train": "no-rows-here.jsonl"},
    }
    path = folder / f"{base}-{quantization}.yaml"
    path.write_text(yaml.safe_dump(sections), "utf-8")
    return path


def plan(code: str, modules: Path, recipe: Path, gpu: str, count: int) -> dict[str, Any]:
    """Run `code` on the words of a plan, in a process of its own.

    Returns:
        What it took, what the plan said of its fit, and what the process told of its parts.
    """
    output, errors = recipe.with_suffix(".json"), recipe.with_suffix(".txt")
    words = ["plan", str(recipe), "--gpu", gpu, "--gpus", str(count), "--json"]
    ended = took.run(
        [sys.executable, "-c", code, str(modules), *words],
        output=output,
        errors=errors,
        environment=dict(os.environ, HF_HUB_OFFLINE="1"),
    )
    told = errors.read_text("utf-8")
    if not output.read_bytes().strip():
        raise SystemExit(f"{' '.join(words)} planned nothing: {told[-2000:]}")
    planned = json.loads(output.read_text("utf-8"))
    parts = json.loads(told.splitlines()[-1]) if code is MEASURING else {}
    return parts | {
        "fits": planned["fit"]["fits"],
        "changes": [fix["changes"] for fix in planned["fit"]["fixes"]],
        "trainable": planned["parameters"]["trainable"],
        "total": planned["parameters"]["total"],
        "whole": ended.cpu_seconds,
        "peak_bytes": ended.peak_bytes,
    }


def is_quick(row: dict[str, Any]) -> bool:
    """Whether a plan took no more than it may."""
    return row["plan"] <= MOST_SECONDS and row["peak_bytes"] <= MOST_BYTES


def line(row: dict[str, Any]) -> list[str]:
    """A plan's line of the table."""
    offered = len(row["changes"])
    return [
        row["base"],
        row["quantization"],
        str(row["gpus"]),
        "yes" if row["fits"] else f"no, {offered} ways offered",
        *(f"{row[part]:.1f}" for part in ("imports", "plan", "whole")),
        f"{row['peak_bytes'] / 1e6:,.0f}",
    ]


def report(rows: list[dict[str, Any]], gpu: str) -> str:
    """The table, and how it came about."""
    slowest = max(row["plan"] for row in rows)
    largest = max(row["peak_bytes"] for row in rows)
    loads = [row["load"] for row in rows]
    return f"""Written by `{command()}`. {machine()}

CPU seconds of all threads of one process for each plan, on {gpu}; whole: with the start of Python.
The slowest plan beside its imports took {slowest:.1f} s, the largest process
{largest / MIB:,.0f} MiB. Load average of the machine: {min(loads)} to {max(loads)}.

{table(COLUMNS, [line(row) for row in rows])}
"""


if __name__ == "__main__":
    sys.exit(main())
