"""How long `lorakit plan` takes for large bases, from their config.json alone.

    python benchmarks/plan_speed.py
    python benchmarks/plan_speed.py --only 235b --gpus 2 --quantization none --adapter dora

Llama-3.1-8B, its 70B shape and Qwen3-235B-A22B, in 16 bit and NF4, LoRA and DoRA of rank 16 on all
linear layers (experts have no DoRA: there it is of all other layers), on 1, 2 and 8 GPUs of one
kind. Each plan is the command `lorakit plan` in a process of its own: what it takes from beginning
to end is counted in CPU seconds of all its threads, which a busy machine changes less than the
clock, the least of a few runs. Where a recipe does not fit, the changes that make it fit are looked
for too. What of it nobody can leave out is measured in between: a process that imports torch and
transformers' file of that family, and does nothing. Ends with 1 when a command takes over 5 s, or
over 2 GB.
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
ADAPTERS = ("lora", "dora")
NUM_GPUS = (1, 2, 8)
MOST_SECONDS = 5.0
MOST_BYTES = 2 * 10**9
COLUMNS = ("base", "storage", "adapter", "GPUs", "fits", "CPU s", "s", "imports s", "peak MB")


def main() -> int:
    """Measure every plan, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="bases whose name begins so")
    parser.add_argument("--quantization", nargs="+", choices=QUANTIZATIONS, default=QUANTIZATIONS)
    parser.add_argument("--adapter", nargs="+", choices=ADAPTERS, default=ADAPTERS)
    parser.add_argument("--gpus", type=int, nargs="+", default=NUM_GPUS)
    parser.add_argument("--runs", type=int, default=3, help="of each, of which the least counts")
    parser.add_argument("--gpu", default="h200", help="the kind of GPU")
    options = parser.parse_args()
    bases = [name for name in LARGE if name.startswith(options.only)]
    if not bases:
        parser.error(f"no base begins with {options.only!r}; there are {', '.join(LARGE)}")
    rows = []
    with work_folder(None) as folder:
        for base, quantization, adapter in product(bases, options.quantization, options.adapter):
            recipe = recipe_of(base, quantization, folder, adapter)
            floor = imports_alone(str(LARGE[base]["model_type"]), folder, options.runs)
            for count in options.gpus:
                row = {"base": base, "quantization": quantization, "adapter": adapter}
                row |= {"gpus": count, "load": round(os.getloadavg()[0], 1)}
                row |= {"imports_cpu_seconds": floor}
                row |= plan(recipe, options.gpu, count, options.runs)
                print(" | ".join(line(row)), file=sys.stderr, flush=True)
                rows.append(row)
    text = report(rows, options.gpu, options.runs)
    print(text)
    if len(rows) == len(LARGE) * len(QUANTIZATIONS) * len(ADAPTERS) * len(NUM_GPUS):
        path = results_file("plan_speed")
        write_section("How long a plan takes", text, path)
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(any(not is_quick(row) for row in rows))


def recipe_of(base: str, quantization: str, folder: Path, adapter: str = "lora") -> Path:
    """A recipe whose base is a folder with a config.json and nothing else."""
    model = folder / base
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(LARGE[base]), "utf-8")
    kind = {"use_dora": True, "target_parameters": []} if adapter == "dora" else {}
    sections = {
        "base": {"model": str(model), "quantization": quantization},
        "adapter": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"} | kind,
        "data": {"train": "no-rows-here.jsonl"},
    }
    path = folder / f"{base}-{quantization}-{adapter}.yaml"
    path.write_text(yaml.safe_dump(sections), "utf-8")
    return path


def imports_alone(model_type: str, folder: Path, runs: int) -> float:
    """CPU seconds of a process that imports what such a model needs: least of the runs."""
    names = f"import torch, transformers.models.{model_type}.modeling_{model_type}"
    ended = [
        took.run(
            [sys.executable, "-c", names],
            output=folder / "imports.txt",
            errors=folder / "imports.errors",
            environment=os.environ,
        )
        for _ in range(runs)
    ]
    if failed := [one.code for one in ended if one.code]:
        raise SystemExit(f"{names!r} ended with {failed[0]}")
    return min(one.cpu_seconds for one in ended)


def plan(recipe: Path, gpu: str, count: int, runs: int = 1) -> dict[str, Any]:
    """Run `lorakit plan`, each time in a process of its own.

    Returns:
        What it took, least of the runs, and what the plan said of its fit.
    """
    output, errors = recipe.with_suffix(".json"), recipe.with_suffix(".txt")
    words = ["plan", str(recipe), "--gpu", gpu, "--gpus", str(count), "--json"]
    ended = [
        took.run(
            [sys.executable, "-m", "lorakit", *words],
            output=output,
            errors=errors,
            environment=dict(os.environ, HF_HUB_OFFLINE="1"),
        )
        for _ in range(runs)
    ]
    if not output.read_bytes().strip():
        told = errors.read_text("utf-8")
        raise SystemExit(f"{' '.join(words)} planned nothing: {told[-2000:]}")
    planned = json.loads(output.read_text("utf-8"))
    return {
        "fits": planned["fit"]["fits"],
        "changes": [fix["changes"] for fix in planned["fit"]["fixes"]],
        "trainable": planned["parameters"]["trainable"],
        "total": planned["parameters"]["total"],
        "cpu_seconds": min(one.cpu_seconds for one in ended),
        "seconds": min(one.seconds for one in ended),
        "peak_bytes": max(one.peak_bytes for one in ended),
    }


def is_quick(row: dict[str, Any]) -> bool:
    """Whether a command took no more than it may."""
    return row["cpu_seconds"] <= MOST_SECONDS and row["peak_bytes"] <= MOST_BYTES


def line(row: dict[str, Any]) -> list[str]:
    """A plan's line of the table."""
    offered = len(row["changes"])
    return [
        row["base"],
        row["quantization"],
        row["adapter"],
        str(row["gpus"]),
        "yes" if row["fits"] else f"no; ways offered: {offered}",
        f"{row['cpu_seconds']:.1f}",
        f"{row['seconds']:.1f}",
        f"{row['imports_cpu_seconds']:.1f}",
        f"{row['peak_bytes'] / 1e6:,.0f}",
    ]


def report(rows: list[dict[str, Any]], gpu: str, runs: int) -> str:
    """The table, and how it came about."""
    slowest, longest = (max(row[name] for row in rows) for name in ("cpu_seconds", "seconds"))
    largest = max(row["peak_bytes"] for row in rows)
    loads = [row["load"] for row in rows]
    floors = [row["imports_cpu_seconds"] for row in rows]
    return f"""Written by `{command()}`. {machine()}

The command `lorakit plan` on {gpu}, from the start of Python to its end, imports and all: CPU
seconds of all its threads, and seconds by the clock, least of {runs} runs. The slowest took
{slowest:.1f} s of CPU and {longest:.1f} s by the clock, the largest {largest / MIB:,.0f} MiB. A
process that imports torch and the family's file in transformers, and does nothing, took
{min(floors):.1f} to {max(floors):.1f} s of CPU in between ("imports s"). Load average of the
machine: {min(loads)} to {max(loads)}.

{table(COLUMNS, [line(row) for row in rows])}
"""


if __name__ == "__main__":
    sys.exit(main())
